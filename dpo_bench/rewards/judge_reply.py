"""What an endpoint's answer is: a verdict, or one of the ways in which it is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpo_bench.rewards.judge_text import read_verdict


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question.

    Attributes:
        reply: the model's text with a verdict in it; None when there is none.
        input_tokens: that the endpoint counted, None when it did not say.
        output_tokens: likewise.
        problem: why there is no verdict, and what helps; empty when there is one.
        paid: whether it was asked now, and not found in the cache.
        again: whether the same question may bring a verdict.
        own_temperature: whether it was given at the endpoint's own temperature, which refuses 0.
    """

    reply: str | None
    input_tokens: int | None = None
    output_tokens: int | None = None
    problem: str = ""
    paid: bool = False
    again: bool = False
    own_temperature: bool = False


KEPT = ("reply", "input_tokens", "output_tokens", "own_temperature")
"""What is kept of an answer."""


class ReportedError(ValueError):
    """An error that an endpoint reports in the body of an answer with status 200.

    Attributes:
        body: what it says.
        status: of HTTP, where the error's code is one; else 500: it may pass.
    """

    def __init__(self, body: object) -> None:
        super().__init__(f"the answer is no chat completion but the error {_start(body)}")
        self.body = body
        code = body.get("code") if isinstance(body, Mapping) else None
        known = isinstance(code, int | str) and str(code).isdecimal() and 400 <= int(code) < 600
        self.status = int(code) if known and code is not None else 500


def read_completion(body: bytes) -> Answer:
    """The answer in the body of a chat completion.

    Raises:
        ReportedError: it is an error.
        ValueError: it is no chat completion; with the endpoint's own words where it has some.
    """
    try:
        values = json.loads(body)
    except ValueError:
        raise ValueError(f"the answer is no chat completion but {_start(body)}") from None
    if isinstance(values, Mapping) and values.get("error"):
        raise ReportedError(values["error"])
    try:
        choice = values["choices"][0]
        message = choice["message"]
        content, usage = message.get("content"), values.get("usage") or {}
        counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    except (LookupError, TypeError, AttributeError):
        raise ValueError(f"the answer is no chat completion but {_start(body)}") from None
    read, written = (None if count is None else int(count) for count in counts)
    reply = _text(content)
    if read_verdict(reply) is not None:
        return Answer(reply, read, written, paid=True)
    problem = _problem(reply, choice, message, written)
    return Answer(None, read, written, problem or "the answer is empty", True, again=not problem)


def _text(content: object) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(part for part in parts if isinstance(part, str))
    return "" if content is None else str(content)


def _problem(
    reply: str, choice: Mapping[str, Any], message: Mapping[str, Any], written: int | None
) -> str:
    """Why a reply has no verdict; empty where it is merely empty."""
    reason = choice.get("finish_reason")
    thought = message.get("reasoning_content") or message.get("reasoning")
    shown = f" (it begins {' '.join(reply.split())[:80]!r})" if reply.strip() else ""
    if reason == "length":
        after = "" if written is None else f" after {written} tokens"
        return f"finish_reason length{after}: raise evaluation.judge_max_tokens{shown}"
    if reason == "content_filter":
        return f"finish_reason content_filter: the endpoint's filter withheld the answer{shown}"
    if refusal := message.get("refusal"):
        return f"the judge refused: {' '.join(str(refusal).split())[:80]!r}"
    if message.get("tool_calls") or message.get("function_call"):
        return "the judge called a tool instead of answering: switch its tools off at the endpoint"
    empty = (
        "content is empty and all text stands in reasoning_content: raise "
        "evaluation.judge_max_tokens, or mend the endpoint's reasoning parser"
    )
    if not shown:
        return empty if thought else ""
    return f"no verdict in the answer{shown}"


def _start(body: object) -> str:
    text = body.decode(errors="replace") if isinstance(body, bytes) else json.dumps(body)
    return repr(" ".join(text.split())[:120])
