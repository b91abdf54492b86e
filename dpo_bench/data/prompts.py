"""Where the prompts of some rows come from, and what to do where nothing says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_bench.contract.suggestions import nearest
from dpo_bench.data.prefixes import common_prompt, hh_prompt
from dpo_bench.errors import DataError

LIKELY = (
    "question",
    "instruction",
    "query",
    "input",
    "history",
    "context",
    "user",
    "post",
    "conversations",
    "conversation",
    "messages",
    "problem",
    "prompt_text",
    "user_prompt",
    "user_input",
    "article",
)
"""Names, in small letters, under which data sets keep their prompts."""


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Where the prompts come from.

    Attributes:
        column: the column; None where they are not in one.
        prefix: finds the prompt that two plain responses share; None where they share none, because
            it has a column or is all in ``data.prompt_template``.
        description: for people.
        repeated: whether plain responses begin with the prompt that also stands in the column.
    """

    column: str | None
    prefix: Callable[[str, str], str] | None
    description: str
    repeated: bool = False


def likely_prompts(columns: Sequence[str]) -> list[str]:
    """The columns that are named like a prompt, most likely first."""
    named = {column.lower(): column for column in reversed(columns)}
    return [named[name] for name in LIKELY if name in named]


def column_prompt(column: str, rows: Sequence[Mapping[str, Any]], *responses: str) -> PromptSource:
    """Prompts in a column of their own; the responses repeat them only if all of them do."""
    source = PromptSource(column, None, f"prompt: column {column!r}")
    prompts = set()
    for row in rows:
        prompt, texts = row.get(column), [row.get(name) for name in responses]
        if not isinstance(prompt, str) or not prompt.strip():
            return source
        if not all(isinstance(text, str) and text.startswith(prompt) for text in texts):
            return source
        prompts.add(prompt)
    if len(prompts) < 2:  # one may begin so by chance
        return source
    what = f"{source.description}, taken off the responses, which all begin with it"
    return PromptSource(column, None, what, repeated=True)


def templated_prompt() -> PromptSource:
    """Prompts that a template makes of other columns."""
    return PromptSource(None, None, "prompt: data.prompt_template")


def shared_prompt(*, asked: bool) -> PromptSource:
    """Prompts that both responses begin with.

    Args:
        asked: whether the options ask for any common beginning; else only conversations count, in
            which a prompt can be told from a first word that happens to be shared.
    """
    if asked:
        return PromptSource(None, common_prompt, "prompt: the responses' common beginning")
    return PromptSource(None, hh_prompt, "prompt: the turns that both conversations begin with")


def advice(columns: Sequence[str]) -> str:
    """What to do where no column is called ``prompt``."""
    likely = likely_prompts(columns)
    if {"instruction", "input"} <= set(likely):
        names = {name.lower(): name for name in columns}
        template = f"{{{names['instruction']}}}\\n\\n{{{names['input']}}}"
        return f'For instruction and input together set data.prompt_template = "{template}".'
    if likely:
        others = f" ({', '.join(map(repr, likely[1:]))} may be meant too)" if likely[1:] else ""
        return f'{likely[0]!r} looks like it: set data.prompt_column = "{likely[0]}"{others}.'
    return (
        "Name the prompt's column as data.prompt_column; where the responses themselves begin with "
        'the prompt, set data.prompt_column = "".'
    )


def refusal(source: str, name: str, columns: Sequence[str]) -> DataError:
    """The error for rows none of which has a prompt."""
    return DataError(
        f"{source}: no column {name!r}{nearest(name, columns)}, and the responses are no "
        f"conversations whose common beginning would be the prompt. {advice(columns)}"
    )
