"""From a row of any known format to a preference pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dpo_bench.contract.suggestions import nearest
from dpo_bench.data.messages import WRITTEN_OUT, Message, read_messages, split_conversation
from dpo_bench.data.prefixes import common_prompt
from dpo_bench.data.problems import Reason, RowProblem
from dpo_bench.data.rows import Rows
from dpo_bench.data.templates import Template
from dpo_bench.errors import DataError
from dpo_bench.experiment.config import Data

DEFAULT_MARGIN_COLUMN: str = Data.model_fields["margin_column"].default
DEFAULT_PROMPT_COLUMN: str = Data.model_fields["prompt_column"].default
COLUMNS_IN_A_MESSAGE = 20


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to a prompt, the first preferred.

    Plain text throughout, or chat messages throughout: then each response is one assistant message.

    Attributes:
        prompt: what precedes the responses.
        chosen: the preferred response.
        rejected: the other one.
        margin: how much better the preferred response is; None where the data has no number.
        template_arguments: what the chat template is given besides the messages (``tools``).
    """

    prompt: str | list[Message]
    chosen: str | list[Message]
    rejected: str | list[Message]
    margin: float | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How the rows of one source become pairs: known columns, checked templates.

    Attributes:
        prompt_column: None where the responses' common prefix is the prompt.
        chosen_column: column of the preferred response.
        rejected_column: column of the other response.
        margin_column: column of how much better the preferred response is; it may be absent.
        prompt_template: of a plain prompt.
        response_template: of a plain response.
    """

    prompt_column: str | None
    chosen_column: str
    rejected_column: str
    margin_column: str
    prompt_template: Template
    response_template: Template

    @classmethod
    def of(cls, rows: Rows, options: Data) -> RowFormat:
        """The format of some rows.

        Raises:
            DataError: a column that the options name does not exist.
            ConfigurationError: a malformed template.
        """
        columns = rows.columns
        for key in ("chosen_column", "rejected_column"):
            _require_column(rows.source, columns, key, getattr(options, key))
        prompt: str | None = options.prompt_column
        if prompt not in columns and prompt in {"", DEFAULT_PROMPT_COLUMN}:
            prompt = None
        if prompt is not None:
            _require_column(rows.source, columns, "prompt_column", prompt)
        if options.margin_column not in {"", DEFAULT_MARGIN_COLUMN}:
            _require_column(rows.source, columns, "margin_column", options.margin_column)
        return cls(
            prompt_column=prompt,
            chosen_column=options.chosen_column,
            rejected_column=options.rejected_column,
            margin_column=options.margin_column,
            prompt_template=Template.parse(
                options.prompt_template, "prompt_template", {"prompt"}, columns
            ),
            response_template=Template.parse(
                options.response_template, "response_template", {"prompt", "response"}, columns
            ),
        )

    def finds_prompt(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has a prompt, be it as the beginning that its responses share."""
        chosen, rejected = row.get(self.chosen_column), row.get(self.rejected_column)
        if self.prompt_column is not None or not isinstance(chosen, str):
            return True
        return isinstance(rejected, str) and bool(common_prompt(chosen, rejected))

    def pair(self, row: Mapping[str, Any]) -> PreferencePair:
        """The pair of a row.

        Raises:
            RowProblem: the row cannot be used.
        """
        chosen = _value(row, self.chosen_column)
        rejected = _value(row, self.rejected_column)
        prompt = None if self.prompt_column is None else _value(row, self.prompt_column)
        if isinstance(prompt, list) or isinstance(chosen, list) or isinstance(rejected, list):
            pair = self._chat(prompt, chosen, rejected)
        else:
            pair = self._plain(row, prompt, chosen, rejected)
        _require_difference(pair)
        return replace(pair, margin=_number(row.get(self.margin_column)))

    def _plain(
        self, row: Mapping[str, Any], prompt: str | None, chosen: str, rejected: str
    ) -> PreferencePair:
        if WRITTEN_OUT.match(chosen) and WRITTEN_OUT.match(rejected):
            raise RowProblem(
                Reason.TYPE,
                f"{self.chosen_column!r} is a list of messages written out as text; keep such "
                "data as .jsonl or .parquet",
            )
        for column, text in ((self.chosen_column, chosen), (self.rejected_column, rejected)):
            _require_text(column, text)
        if prompt is None:
            if chosen == rejected:
                raise RowProblem(Reason.IDENTICAL, "both responses are the same")
            prompt = common_prompt(chosen, rejected)
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
            _require_text(self.chosen_column, chosen)
            _require_text(self.rejected_column, rejected)
        try:
            return PreferencePair(
                self.prompt_template.fill(row, {"prompt": prompt}),
                self.response_template.fill(row, {"prompt": prompt, "response": chosen}),
                self.response_template.fill(row, {"prompt": prompt, "response": rejected}),
            )
        except ValueError as problem:
            raise RowProblem(Reason.TEMPLATE, str(problem)) from None

    def _chat(
        self,
        prompt: str | list[Any] | None,
        chosen: str | list[Any],
        rejected: str | list[Any],
    ) -> PreferencePair:
        if not (self.prompt_template.is_trivial and self.response_template.is_trivial):
            raise RowProblem(
                Reason.TEMPLATE,
                "it holds chat messages, which the tokenizer's chat template writes out; "
                "data.prompt_template and data.response_template are for plain text",
            )
        names = (self.prompt_column or "prompt", self.chosen_column, self.rejected_column)
        messages = read_messages(prompt, names[0]) if isinstance(prompt, list) else prompt
        shared, first, second = split_conversation(
            messages, _as_messages(chosen, names[1]), _as_messages(rejected, names[2]), names
        )
        _require_text(names[1], first[0]["content"])
        _require_text(names[2], second[0]["content"])
        return PreferencePair(shared, first, second)


def _number(value: Any) -> float | None:
    """A finite number, or None: whether a pair needs one is for a loss to say."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _as_messages(value: str | list[Any], column: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return read_messages(value, column)


def _value(row: Mapping[str, Any], column: str) -> str | list[Any]:
    value = row.get(column)
    if value is None:
        raise RowProblem(Reason.MISSING, f"it has no {column!r}")
    if not isinstance(value, (str, list)):
        raise RowProblem(
            Reason.TYPE,
            f"{column!r} must be a text or a list of messages, not {type(value).__name__}",
        )
    _require_encodable(value, column)
    return value


def _require_encodable(value: str | list[Any], column: str) -> None:
    """No half of a surrogate pair: UTF-8, and with it every tokenizer, has no spelling for one."""
    texts = [value] if isinstance(value, str) else _texts(value)
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RowProblem(
                Reason.SURROGATE,
                f"{column!r} contains an unpaired surrogate, which is no character",
            ) from None


def _texts(messages: list[Any]) -> list[str]:
    pairs = [item for message in messages if isinstance(message, dict) for item in message.items()]
    return [text for pair in pairs for text in pair if isinstance(text, str)]


def _require_text(column: str, text: str) -> None:
    if not text.strip():
        raise RowProblem(Reason.EMPTY, f"the response in {column!r} is empty")


def _require_difference(pair: PreferencePair) -> None:
    if pair.chosen == pair.rejected:
        raise RowProblem(Reason.IDENTICAL, "both responses are the same")


def _require_column(source: str, columns: tuple[str, ...], key: str, column: str) -> None:
    if column in columns:
        return
    shown = ", ".join(repr(name) for name in columns[:COLUMNS_IN_A_MESSAGE])
    more = ", ..." if len(columns) > COLUMNS_IN_A_MESSAGE else ""
    raise DataError(
        f"{source}: no column {column!r}{nearest(column, columns)}; its columns: {shown}{more}. "
        f"Name the right one as data.{key}."
    )
