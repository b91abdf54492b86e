"""From a row of any known format to a preference pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dpo_bench.data.arguments import (
    KEYWORDS,
    SYSTEM_COLUMNS,
    TOOLS,
    system_text,
    template_arguments,
)
from dpo_bench.data.columns import require_column, require_responses
from dpo_bench.data.conversations import split_conversation, with_system
from dpo_bench.data.margins import Margin
from dpo_bench.data.messages import WRITTEN_OUT, Message, is_message, read_messages, written_out
from dpo_bench.data.problems import Reason, RowProblem
from dpo_bench.data.prompts import (
    PromptSource,
    column_prompt,
    refusal,
    shared_prompt,
    templated_prompt,
)
from dpo_bench.data.rows import Rows
from dpo_bench.data.templates import Template
from dpo_bench.experiment.config import Data

DEFAULT_MARGIN_COLUMN: str = Data.model_fields["margin_column"].default
DEFAULT_PROMPT_COLUMN: str = Data.model_fields["prompt_column"].default

CHAT_COLUMNS = (*SYSTEM_COLUMNS, TOOLS, KEYWORDS)
"""Columns that say more about a chat than its messages do."""

Value = str | list[Any]
Texts = tuple[str, str, str] | tuple[list[Message], list[Message], list[Message]]


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to a prompt, the first preferred.

    Plain text throughout, or chat messages throughout: then each response is one assistant message,
    and an assistant's message at the end of the prompt is one that the responses go on with.

    Attributes:
        prompt: what precedes the responses.
        chosen: the preferred response.
        rejected: the other one.
        margin: how much better the preferred response is; None where the data has no number.
        template_arguments: what the chat template is to be given besides the messages (``tools``).
        system: what the row gives as the system's text beside a plain prompt; a chat has it as its
            first message.
    """

    prompt: str | list[Message]
    chosen: str | list[Message]
    rejected: str | list[Message]
    margin: float | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How the rows of one source become pairs: known columns, checked templates.

    Attributes:
        prompt: where the prompts come from.
        chosen_column: column of the preferred response.
        rejected_column: column of the other response.
        margin: where the margins come from.
        prompt_template: of a plain prompt.
        response_template: of a plain response.
        description: what was decided, in plain words.
    """

    prompt: PromptSource
    chosen_column: str
    rejected_column: str
    margin: Margin
    prompt_template: Template
    response_template: Template
    description: str

    @classmethod
    def of(cls, rows: Rows, options: Data, made: str = "") -> RowFormat:
        """The format of some rows.

        Args:
            rows: the rows.
            options: columns and templates.
            made: how the rows were made into pairs, if they were.

        Raises:
            DataError: a column that the options name does not exist, or nothing is a prompt.
            ConfigurationError: a malformed template.
        """
        columns = rows.columns
        chosen, rejected = options.chosen_column, options.rejected_column
        require_responses(rows, chosen, rejected)
        if options.margin_column not in {"", DEFAULT_MARGIN_COLUMN}:
            require_column(rows.source, columns, "margin_column", options.margin_column)
        margin = Margin.of(
            options.margin_column,
            columns,
            is_default=options.margin_column == DEFAULT_MARGIN_COLUMN,
        )
        prompt_template = Template.parse(
            options.prompt_template, "prompt_template", {"prompt"}, columns
        )
        response_template = Template.parse(
            options.response_template, "response_template", {"prompt", "response"}, columns
        )
        prompt = _prompt_source(rows, options, prompt_template)
        notes = [made] if made else [prompt.description, margin.description]
        used = prompt_template.fields | response_template.fields
        notes += [f"{name}: a column" for name in CHAT_COLUMNS if name in {*columns} - used]
        return cls(
            prompt=prompt,
            chosen_column=chosen,
            rejected_column=rejected,
            margin=margin,
            prompt_template=prompt_template,
            response_template=response_template,
            description="; ".join(filter(None, notes)),
        )

    def pair(self, row: Mapping[str, Any]) -> PreferencePair:
        """The pair of a row.

        Raises:
            RowProblem: the row cannot be used.
        """
        chosen, rejected = _responses(row, self.chosen_column, self.rejected_column)
        prompt = None if self.prompt.column is None else _prompt(row, self.prompt.column)
        used = self.prompt_template.fields | self.response_template.fields
        system = system_text(row, used)
        if isinstance(prompt, list) or isinstance(chosen, list) or isinstance(rejected, list):
            texts: Texts = self._chat(prompt, chosen, rejected, system)
            system = None  # it is among the messages
        else:
            texts = self._plain(row, prompt, chosen, rejected)
        before, first, second = texts
        if first == second:
            raise RowProblem(Reason.IDENTICAL, "both responses are the same")
        margin, arguments = self.margin.value(row), template_arguments(row)
        return PreferencePair(before, first, second, margin, arguments, system)

    def _plain(
        self, row: Mapping[str, Any], prompt: str | None, chosen: str, rejected: str
    ) -> tuple[str, str, str]:
        _require_text(self.chosen_column, chosen)
        _require_text(self.rejected_column, rejected)
        if prompt is None or self.prompt.repeated:
            prompt = self._shared(chosen, rejected) if prompt is None else prompt
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
            _require_text(self.chosen_column, chosen)
            _require_text(self.rejected_column, rejected)
        try:
            return (
                self.prompt_template.fill(row, {"prompt": prompt}),
                self.response_template.fill(row, {"prompt": prompt, "response": chosen}),
                self.response_template.fill(row, {"prompt": prompt, "response": rejected}),
            )
        except ValueError as problem:
            raise RowProblem(Reason.TEMPLATE, str(problem)) from None

    def _shared(self, chosen: str, rejected: str) -> str:
        """The prompt that two plain responses begin with; empty where a template writes it all."""
        if self.prompt.prefix is None:
            return ""
        if chosen == rejected:
            raise RowProblem(Reason.IDENTICAL, "both responses are the same")
        prompt = self.prompt.prefix(chosen, rejected)
        if not prompt:
            raise RowProblem(
                Reason.PROMPT,
                "it has no prompt: its responses share no beginning that could be one",
            )
        return prompt

    def _chat(
        self, prompt: Value | None, chosen: Value, rejected: Value, system: str | None
    ) -> tuple[list[Message], list[Message], list[Message]]:
        if not (self.prompt_template.is_trivial and self.response_template.is_trivial):
            raise RowProblem(
                Reason.TEMPLATE,
                "it holds chat messages, which the tokenizer's chat template writes out; "
                "data.prompt_template and data.response_template are for plain text",
            )
        names = (self.prompt.column or "prompt", self.chosen_column, self.rejected_column)
        messages = read_messages(prompt, names[0]) if isinstance(prompt, list) else prompt
        shared, first, second = split_conversation(
            messages, _as_messages(chosen, names[1]), _as_messages(rejected, names[2]), names
        )
        _require_text(names[1], first[0]["content"])
        _require_text(names[2], second[0]["content"])
        return with_system(shared, system), first, second


def _prompt_source(rows: Rows, options: Data, template: Template) -> PromptSource:
    """Where the prompts come from, in the order of what is surest."""
    columns, name = rows.columns, options.prompt_column
    if name in columns:
        return column_prompt(name, rows.records, options.chosen_column, options.rejected_column)
    if name not in {"", DEFAULT_PROMPT_COLUMN}:
        require_column(rows.source, columns, "prompt_column", name)
    if template.fields and "prompt" not in template.fields:
        return templated_prompt()
    source = shared_prompt(asked=name == "")
    names = options.chosen_column, options.rejected_column
    if not any(_may_have_prompt(row, names, source) for row in rows.records):
        raise refusal(rows.source, name, columns)
    return source


def _may_have_prompt(row: Mapping[str, Any], names: tuple[str, str], source: PromptSource) -> bool:
    """Whether the responses of a row begin alike; a row that cannot be read speaks for itself."""
    try:
        chosen, rejected = _responses(row, *names)
        if isinstance(chosen, str) and isinstance(rejected, str):
            return source.prefix is not None and bool(source.prefix(chosen, rejected))
        first, second = _as_messages(chosen, names[0]), _as_messages(rejected, names[1])
    except RowProblem as problem:
        return problem.reason is Reason.MESSAGES
    return len(first) > 1 and first[0] == second[0]


def _as_messages(value: Value, column: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return read_messages(value, column)


def _responses(row: Mapping[str, Any], chosen: str, rejected: str) -> tuple[Value, Value]:
    """Both responses; messages that are written out as text only where both of them are."""
    texts = _value(row, chosen), _value(row, rejected)
    if all(isinstance(text, str) and WRITTEN_OUT.match(text) for text in texts):
        first, second = (written_out(str(text)) for text in texts)
        if first is not None and second is not None:
            texts = first, second
    return _encodable(texts[0], chosen), _encodable(texts[1], rejected)


def _prompt(row: Mapping[str, Any], column: str) -> Value:
    value = _value(row, column)
    spelled = written_out(value) if isinstance(value, str) else None
    return _encodable(value if spelled is None else spelled, column)


def _value(row: Mapping[str, Any], column: str) -> Value:
    """A text or a list of messages, also from one message or one text alone."""
    value = row.get(column)
    if value is None:
        raise RowProblem(Reason.MISSING, f"it has no {column!r}")
    if is_message(value):
        return [value]
    if not isinstance(value, (str, list)):
        raise RowProblem(
            Reason.TYPE,
            f"{column!r} must be a text or a list of messages, not {type(value).__name__}",
        )
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    return value


def _encodable(value: Value, column: str) -> Value:
    """No half of a surrogate pair: UTF-8, and with it every tokenizer, has no spelling for one."""
    for text in [value] if isinstance(value, str) else _texts(value):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RowProblem(
                Reason.SURROGATE,
                f"{column!r} contains an unpaired surrogate, which is no character",
            ) from None
    return value


def _texts(value: Any) -> Iterator[str]:
    """All texts of a nested value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in (*value, *value.values()):
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _require_text(column: str, text: str) -> None:
    if not text.strip():
        raise RowProblem(Reason.EMPTY, f"the response in {column!r} is empty")
