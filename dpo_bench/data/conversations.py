"""A conversation of a row, split into the prompt and the two answers to it."""

from __future__ import annotations

from dpo_bench.data.messages import STRUCTURED, Message
from dpo_bench.data.prefixes import common_items
from dpo_bench.data.problems import Reason, RowProblem


def split_conversation(
    prompt: list[Message] | str | None,
    chosen: list[Message],
    rejected: list[Message],
    columns: tuple[str, str, str],
) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt and the two answers, from responses that repeat the prompt or leave it out.

    An assistant's message at the end of the prompt is one that the answers go on with.

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
                Reason.PROMPT, f"{columns[1]!r} and {columns[2]!r} share no message as prompt"
            )
    return (
        prompt,
        _only_answer(_without_prompt(chosen, prompt, columns[1]), columns[1]),
        _only_answer(_without_prompt(rejected, prompt, columns[2]), columns[2]),
    )


def with_system(prompt: list[Message], system: str | None) -> list[Message]:
    """A prompt that begins with a system message, unless there is none or it has one already."""
    if system is None or prompt[0]["role"] in {"system", "developer"}:
        return prompt
    return [{"role": "system", "content": system}, *prompt]


def _only_answer(messages: list[Message], column: str) -> list[Message]:
    """The one assistant message that a response consists of."""
    if not messages:
        raise RowProblem(Reason.EMPTY, f"{column!r} is the prompt and no more")
    if len(messages) > 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages[:6])
        raise RowProblem(
            Reason.MESSAGES,
            f"after the prompt, {column!r} must be one assistant message, not: {roles}",
        )
    if any(key in messages[0] for key in STRUCTURED):
        raise RowProblem(
            Reason.MESSAGES,
            f"the response in {column!r} calls a tool; only texts can be compared",
        )
    return messages


def _prompt_around(
    text: str, shared: list[Message], chosen: list[Message], columns: tuple[str, str, str]
) -> list[Message]:
    """The messages of a prompt that the data also gives as text (as UltraFeedback does)."""
    if chosen[0]["role"] == "assistant":
        return [{"role": "user", "content": text}]
    if not any((message["content"] or "").strip() == text.strip() for message in shared):
        raise RowProblem(
            Reason.MESSAGES,
            f"the messages of {columns[1]!r} and {columns[2]!r} do not both begin with the "
            f"text of {columns[0]!r}",
        )
    return shared


def _without_prompt(messages: list[Message], prompt: list[Message], column: str) -> list[Message]:
    if messages[: len(prompt)] == prompt:
        return messages[len(prompt) :]
    if messages[0]["role"] == "assistant":
        return messages
    rest = _after_begun(messages, prompt)
    if rest is None:
        raise RowProblem(Reason.MESSAGES, f"{column!r} repeats another prompt than the row's")
    return rest


def _after_begun(messages: list[Message], prompt: list[Message]) -> list[Message] | None:
    """The answer after a prompt whose last message it goes on with, where it repeats both."""
    before = len(prompt) - 1
    if messages[:before] != prompt[:before] or len(messages) <= before:
        return None
    begun, whole = prompt[before], messages[before]
    if begun["role"] != "assistant" or whole["role"] != "assistant":
        return None
    start, text = begun["content"] or "", whole["content"] or ""
    if not start or not text.startswith(start):
        return None
    return [whole | {"content": text[len(start) :]}, *messages[before + 1 :]]
