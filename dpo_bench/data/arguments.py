"""What a row says about its chat: the system's text, and what the chat template is to be given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dpo_bench.data.messages import parsed, require_plain, without_nulls
from dpo_bench.data.problems import Reason, RowProblem

SYSTEM_COLUMNS = ("system", "system_prompt")
TOOLS = "tools"
KEYWORDS = "chat_template_kwargs"
RESERVED = frozenset(
    {
        "conversation",
        "messages",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "return_dict",
        "return_tensors",
        "return_assistant_tokens_mask",
        "padding",
        "truncation",
        "max_length",
        "tokenizer_kwargs",
    }
)
"""Arguments of the template that are not the data's to set."""


def system_text(row: Mapping[str, Any], used: Collection[str]) -> str | None:
    """The system's text of a row; None where it is null, empty, or ``used`` by a template."""
    for column in SYSTEM_COLUMNS:
        text = row.get(column)
        if column not in used and isinstance(text, str) and text.strip():
            return text
    return None


def template_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives to the chat template: its tools, and the entries of its keywords.

    Both may be JSON text; null and empty ones are absent, and so are nulls within.

    Raises:
        RowProblem: the tools are no list of objects, or the keywords are no object or set what is
            not theirs.
    """
    arguments = _keywords(row.get(KEYWORDS))
    tools = _tools(row.get(TOOLS))
    if tools:
        arguments[TOOLS] = tools
    if arguments:
        require_plain(arguments, f"{TOOLS!r} or {KEYWORDS!r}")
    return arguments


def _tools(value: Any) -> list[Any]:
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        return []  # a text about tools, but none that a template could be given
    tools = parsed(value) or []
    if isinstance(tools, list):
        tools = [parsed(tool) for tool in tools]
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowProblem(
            Reason.TYPE, f"{TOOLS!r} must be a list of objects that each describe a tool"
        )
    return [without_nulls(tool) for tool in tools]


def _keywords(value: Any) -> dict[str, Any]:
    keywords = parsed(value) or {}
    if not isinstance(keywords, dict):
        raise RowProblem(Reason.TYPE, f"{KEYWORDS!r} must be an object")
    refused = sorted(RESERVED & keywords.keys())
    if refused:
        raise RowProblem(Reason.TYPE, f"{KEYWORDS!r} must not set {refused[0]!r}")
    return {key: without_nulls(item) for key, item in keywords.items() if item is not None}
