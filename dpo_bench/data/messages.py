"""Chat messages as preference data gives them: brought to one spelling and checked."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from dpo_bench.data.problems import Reason, RowProblem
from dpo_bench.storage import canonical_json

Message = dict[str, Any]
"""``role`` and ``content`` (text; None where it only calls tools), and what templates read besides:
further texts (``name``, ``tool_call_id``, ``reasoning_content``) and ``tool_calls``."""

ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
} | {role: role for role in ("system", "developer", "user", "assistant", "tool")}
"""A role in small letters -> its name in chat templates; any other role stays as it is."""

FUNCTION_CALL = "function_call"
"""A ShareGPT message of this role calls a tool; its text is the call, as JSON."""

STRUCTURED = ("tool_calls", "tool_responses", FUNCTION_CALL)
"""Keys of a message that may hold more than text."""

SPELLING = ("role", "content", "from", "value")
WRITTEN_OUT = re.compile(r"\s*(\[\s*)?\{\s*['\"](role|content|from|value)['\"]\s*:")


def read_messages(value: list[Any], column: str) -> list[Message]:
    """Messages in one spelling; what is neither text nor read by templates is left out.

    Roles may be spelled as in ShareGPT (``from``, ``value``, ``human``, ``gpt``) or in capitals,
    and contents as a list of text parts.

    Raises:
        RowProblem: it is empty, a message is no object, it has no role or no text, or a part of it
            is no text (an image).
    """
    if not value:
        raise RowProblem(Reason.MESSAGES, f"{column!r} has no messages")
    return [
        _read_message(message, f"message {i} of {column!r}") for i, message in enumerate(value, 1)
    ]


def is_message(value: Any) -> bool:
    """Whether a value is one message by itself."""
    return isinstance(value, dict) and ("role" in value or "from" in value)


def written_out(text: str) -> list[Any] | None:
    """The messages that a text spells out, as JSON or as Python prints them; None: plain text.

    Raises:
        RowProblem: it begins like a list of messages, but is none.
    """
    start = WRITTEN_OUT.match(text)
    if start is None:
        return None
    value = _parse(text)
    messages = [value] if isinstance(value, dict) else value
    if isinstance(messages, list) and messages and all(map(is_message, messages)):
        return messages
    if start.group(1) is None:
        return None  # an object of some other kind may well be a prompt or an answer
    raise RowProblem(
        Reason.MESSAGES,
        "it has messages written out as text that can be read neither as JSON nor as Python's "
        "lists; write them as JSON, or keep such data as .jsonl",
    )


def without_nulls(value: Any) -> Any:
    """A nested value without the keys whose value is null: Parquet adds them where rows differ."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def parsed(value: Any) -> Any:
    """A nested value that may be spelled as JSON text; a text that is no JSON stays as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def require_plain(value: Any, what: str) -> None:
    """Raise RowProblem where a nested value cannot be spelled as JSON (a date, bytes, NaN)."""
    try:
        canonical_json(value)
    except (TypeError, ValueError, RecursionError) as problem:
        raise RowProblem(
            Reason.TYPE, f"{what} is nothing that JSON can spell ({problem})"
        ) from None


def _read_message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise RowProblem(Reason.MESSAGES, f"{where} is no object with role and content")
    role, content = _either(message, "role", "from"), _either(message, "content", "value")
    if not isinstance(role, str):
        raise RowProblem(Reason.MESSAGES, f"{where} has no text as 'role'")
    if role.lower() == FUNCTION_CALL:
        return _call(content, where)
    kept = {key: text for key, text in message.items() if isinstance(text, str)}
    kept |= {key: without_nulls(parsed(message[key])) for key in STRUCTURED if message.get(key)}
    if any(key in kept for key in STRUCTURED):
        require_plain(kept, where)
    content = _text(content, where)
    if content is None and not any(key in kept for key in STRUCTURED):
        raise RowProblem(Reason.MESSAGES, f"{where} has no text as 'content'")
    further = {key: item for key, item in kept.items() if key not in SPELLING}
    return {"role": ROLES.get(role.lower(), role), "content": content} | further


def _either(message: dict[str, Any], *keys: str) -> Any:
    """The first value that there is; a table of both spellings has nulls in one of them."""
    return next((message[key] for key in keys if message.get(key) is not None), None)


def _text(content: Any, where: str) -> str | None:
    """A message's text, joined from its parts; None where it has none."""
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind != "text" or not isinstance(text, str):
            named = kind if kind != "text" else type(part).__name__
            raise RowProblem(
                Reason.MESSAGES,
                f"{where} has a part of the kind {named!r} in its 'content', of which only text "
                "can be used",
            )
        texts.append(text)
    return "".join(texts)


def _call(content: Any, where: str) -> Message:
    """An assistant's message from ShareGPT's text of a call (or a list of calls)."""
    calls = parsed(content)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        raise RowProblem(Reason.MESSAGES, f"{where} calls a tool, but not as JSON with a 'name'")
    wrapped = [{"type": "function", "function": without_nulls(call)} for call in calls]
    require_plain(wrapped, where)
    return {"role": "assistant", "content": None, "tool_calls": wrapped}


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an escape that Python does not know
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
