"""The texts that ``data.prompt_template`` and ``data.response_template`` make of a row."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import ConfigurationError, DataError


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
        return self.text in {"{prompt}", "{response}"}

    def fill(self, row: Mapping[str, Any], own: Mapping[str, str]) -> str:
        """The text for a row; ``own`` wins over a column of the same name.

        Raises:
            ValueError: a column is missing in this row, or its value does not fit the format.
        """
        values = {**row, **own}
        for field in self.fields:
            if values.get(field) is None:
                raise ValueError(f"no {field!r}, which a template needs")
        try:
            return _Columns().vformat(self.text, (), values)
        except (TypeError, ValueError) as problem:
            raise ValueError(f"the template {self.text!r} does not fit: {problem}") from None
