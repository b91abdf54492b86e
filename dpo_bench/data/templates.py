"""The texts that ``data.prompt_template`` and ``data.response_template`` make of a row."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import ConfigurationError, DataError

PROMPT_ONLY, RESPONSE_ONLY = "{prompt}", "{response}"
"""Templates that leave a text as it is."""


class _Columns(string.Formatter):
    """`str.format` over named columns only: a field is looked up whole, never followed further."""

    def get_field(
        self,
        field_name: str,
        args: Sequence[Any],  # noqa: ARG002
        kwargs: Mapping[str, Any],
    ) -> tuple[Any, str]:
        return kwargs[field_name], field_name


@dataclass(frozen=True, slots=True)
class Template:
    r"""A template whose columns are known to exist.

    Attributes:
        text: as written, e.g. ``"Instruct: {prompt}\nOutput:"``.
        fields: the columns that it names.
    """

    text: str
    fields: frozenset[str]

    @classmethod
    def parse(cls, text: str, key: str, own: Collection[str], columns: Sequence[str]) -> Template:
        """Check a template against the data.

        Args:
            text: the template.
            key: its key in the experiment file, for messages.
            own: fields that it may name beside the columns (``prompt``, ``response``).
            columns: columns of the data.

        Raises:
            ConfigurationError: the braces do not match or a field has no name.
            DataError: it names a column that the data lacks.
        """
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        except ValueError as problem:
            raise ConfigurationError(f"data.{key}: {problem}; write {{{{ for a brace.") from None
        for field in fields:
            if not field:
                raise ConfigurationError(f"data.{key}: write a column's name between the braces.")
            if field not in own and field not in columns:
                raise DataError(
                    f"data.{key} names {field!r}, which is no column of the data"
                    f"{nearest(field, [*own, *columns])}; columns: {', '.join(columns)}."
                )
        return cls(text, frozenset(fields))

    @property
    def is_trivial(self) -> bool:
        """Whether it leaves a text as it is."""
        return self.text in {PROMPT_ONLY, RESPONSE_ONLY}

    def fill(self, row: Mapping[str, Any], own: Mapping[str, str]) -> str:
        """The text for a row; ``own`` wins over a column of the same name.

        A column that is null in this row is empty, and the white space that parts an empty column
        from the next field (from the one before, if it is the last) is left out with it.

        Raises:
            ValueError: no field of the row has a value, or one does not fit the format.
        """
        if self.is_trivial and self.text[1:-1] in own:
            return own[self.text[1:-1]]
        values = {**row, **own}
        empty = {name for name in self.fields - own.keys() if values.get(name) in (None, "")}
        if empty and empty == self.fields:
            names = ", ".join(map(repr, sorted(empty)))
            raise ValueError(f"no {names}, which a template needs")
        text = self.text
        for field in sorted(empty):
            text = _without(text, field)
        try:
            return _Columns().vformat(text, (), values | dict.fromkeys(empty, ""))
        except (TypeError, ValueError) as problem:
            raise ValueError(f"the template {self.text!r} does not fit: {problem}") from None


def _without(template: str, field: str) -> str:
    r"""A template without a field, and without the white space that parts it from its neighbor.

    >>> _without("{system}\n\n{prompt}", "system"), _without("{prompt}\n{input}", "input")
    ('{prompt}', '{prompt}')
    >>> _without("{prompt}\nContext: {context}\nAnswer:", "context")
    '{prompt}\nContext: \nAnswer:'
    """
    spelled = rf"(?<!{{){{{re.escape(field)}(?:![^{{}}]*)?(?::[^{{}}]*)?}}(?!}})"
    for pattern in (rf"{spelled}\s+(?={{[^{{])", rf"(?<=}})\s+{spelled}\Z", spelled):
        template = re.sub(pattern, "", template)
    return template
