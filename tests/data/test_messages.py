from __future__ import annotations

import json
from typing import Any

import pytest

from dpo_bench.data.messages import read_messages, written_out
from dpo_bench.data.problems import RowProblem
from tests.data.build import assistant, user

SKY: dict[str, Any] = {"name": "sky", "arguments": {"city": "Rome"}}
CALL = {"type": "function", "function": SKY}


def read(*messages: Any) -> list[dict[str, Any]]:
    return read_messages(list(messages), "prompt")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"from": "human", "value": "Hi"}, user("Hi")),
        ({"from": "gpt", "value": "Hi"}, assistant("Hi")),
        ({"from": "system", "value": "Hi"}, {"role": "system", "content": "Hi"}),
        ({"from": "observation", "value": "Hi"}, {"role": "tool", "content": "Hi"}),
        ({"role": "Human", "content": "Hi"}, user("Hi")),
        ({"role": "ASSISTANT", "content": "Hi"}, assistant("Hi")),
        ({"role": "model", "content": "Hi"}, assistant("Hi")),
        ({"role": "Judge", "content": "Hi"}, {"role": "Judge", "content": "Hi"}),
        ({"role": None, "content": None, "from": "human", "value": "Hi"}, user("Hi")),
    ],
)
def test_roles_and_keys_come_in_many_spellings(message: Any, expected: Any) -> None:
    assert read(message) == [expected]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Hi"}],
        [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
        [{"type": "text", "text": "Hi", "image_url": None}],
        [{"text": "Hi"}],
        ["H", "i"],
        {"type": "text", "text": "Hi"},
    ],
)
def test_text_parts_are_joined(content: Any) -> None:
    assert read({"role": "user", "content": content}) == [user("Hi")]


@pytest.mark.parametrize("kind", ["image_url", "image", "audio", "video"])
def test_other_parts_are_refused_by_name(kind: str) -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": kind, kind: {"url": "x"}}]
    with pytest.raises(RowProblem, match=f"message 2 of 'prompt' has a part of the kind '{kind}'"):
        read(user("a"), {"role": "user", "content": parts})


def test_tool_calls_and_answers_keep_what_templates_read() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 1}
    answer = {"role": "tool", "content": "blue", "name": "sky", "tool_call_id": "1"}
    thought = assistant("Blue.") | {"reasoning_content": "Look up."}
    assert read(call, answer, thought) == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        answer,
        thought,
    ]


def test_what_parquet_fills_up_with_nulls_is_as_before() -> None:
    filled = {"type": "function", "id": None, "function": SKY | {"strict": None}}
    call = {"role": "assistant", "content": None, "tool_calls": [filled], "name": None}
    assert read(call) == [{"role": "assistant", "content": None, "tool_calls": [CALL]}]


def test_calls_may_be_json_text() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])}
    assert read(call) == [{"role": "assistant", "content": "", "tool_calls": [CALL]}]
    sharegpt = {"from": "function_call", "value": json.dumps(SKY)}
    assert read(sharegpt) == [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    with pytest.raises(RowProblem, match="message 1 of 'prompt' calls a tool, but not as JSON"):
        read({"from": "function_call", "value": "sky(Rome)"})


def test_nothing_but_json_is_kept() -> None:
    with pytest.raises(RowProblem, match="message 1 of 'prompt' is nothing that JSON can spell"):
        read(user("a") | {"tool_calls": [{"at": float("nan")}]})


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "user", "content": "it\'s"}]',
        "[{'role': 'user', 'content': \"it's\"}]",
        '\n [\n{"content": "it\'s",\n"role": "user"}]\n',
        '{"role": "user", "content": "it\'s"}',
    ],
)
def test_messages_may_be_written_out(text: str) -> None:
    assert written_out(text) == [user("it's")]


@pytest.mark.parametrize(
    "text", ["Hi", "", "[1, 2]", '{"content": "x"}', '{"role": "a"', '["role"]', "[{1: 2}]"]
)
def test_other_texts_are_texts(text: str) -> None:
    assert written_out(text) is None


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "user", "content": "cut',
        "[{'role': 'user', 'content': 'a'}\n {'role': 'assistant', 'content': 'b'}]",  # numpy's
        '[{"role": "user", "content": f()}]',
        '[{"content": "no role"}]',
    ],
)
def test_what_begins_like_messages_must_be_messages(text: str) -> None:
    with pytest.raises(RowProblem, match="messages written out as text"):
        written_out(text)
