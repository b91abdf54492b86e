"""Chat messages as preference data gives them: checked, and split into prompt and answer."""

from __future__ import annotations

import re
from typing import Any

from dpo_bench.data.prefixes import common_items
from dpo_bench.data.problems import Reason, RowProblem

Message = dict[str, str]
"""``role`` and ``content``, and further texts that a chat template may read (``name``)."""

WRITTEN_OUT = re.compile(r"\s*\[\s*\{\s*['\"](role|content)['\"]\s*:")


def read_messages(value: list[Any], column: str) -> list[Message]:
    """Check a list of messages; values that are no text and that no template needs are left out.

    Raises:
        RowProblem: it is empty, a message is no object, or its role or content is no text.
    """
    if not value:
        raise RowProblem(Reason.MESSAGES, f"{column!r} has no messages")
    return [
        _read_message(message, f"message {i} of {column!r}") for i, message in enumerate(value, 1)
    ]


def _read_message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise RowProblem(Reason.MESSAGES, f"{where} is no object with role and content")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise RowProblem(Reason.MESSAGES, f"{where} has no text as {key!r}")
    if message.get("tool_calls"):
        raise RowProblem(Reason.MESSAGES, f"{where} calls a tool; only texts can be compared")
    return {key: text for key, text in message.items() if isinstance(text, str)}


def only_answer(messages: list[Message], column: str) -> list[Message]:
    """The one assistant message that a response consists of.

    Raises:
        RowProblem: there is none, several, or it has another role.
    """
    if not messages:
        raise RowProblem(Reason.EMPTY, f"{column!r} is the prompt and no more")
    if len(messages) > 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages[:6])
        raise RowProblem(
            Reason.MESSAGES,
            f"after the prompt, {column!r} must be one assistant message, not: {roles}",
        )
    return messages


def split_conversation(
    prompt: list[Message] | str | None,
    chosen: list[Message],
    rejected: list[Message],
    columns: tuple[str, str, str],
) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt and the two answers, from responses that repeat the prompt or leave it out.

    Args:
        prompt: messages, the user's text, or None when the data has no prompt of its own.
        chosen: the preferred response's messages.
        rejected: the other's.
        columns: names of the three columns, for messages.

    Raises:
        RowProblem: the three do not fit together.
    """
    shared = common_items(chosen[:-1], rejected[:-1])
    if isinstance(prompt, str):
        prompt = _prompt_around(prompt, shared, chosen, columns)
    elif prompt is None:
        prompt = shared
        if not prompt:
            raise RowProblem(
                Reason.MESSAGES, f"{columns[1]!r} and {columns[2]!r} share no message as prompt"
            )
    return (
        prompt,
        only_answer(_without_prompt(chosen, prompt, columns[1]), columns[1]),
        only_answer(_without_prompt(rejected, prompt, columns[2]), columns[2]),
    )


def _prompt_around(
    text: str, shared: list[Message], chosen: list[Message], columns: tuple[str, str, str]
) -> list[Message]:
    """The messages of a prompt that the data also gives as text (as UltraFeedback does)."""
    if chosen[0]["role"] == "assistant":
        return [{"role": "user", "content": text}]
    if not any(message["content"].strip() == text.strip() for message in shared):
        raise RowProblem(
            Reason.MESSAGES,
            f"the messages of {columns[1]!r} and {columns[2]!r} do not both begin with the "
            f"text of {columns[0]!r}",
        )
    return shared


def _without_prompt(messages: list[Message], prompt: list[Message], column: str) -> list[Message]:
    if messages[: len(prompt)] == prompt:
        return messages[len(prompt) :]
    if messages[0]["role"] != "assistant":
        raise RowProblem(Reason.MESSAGES, f"{column!r} repeats another prompt than the row's")
    return messages
