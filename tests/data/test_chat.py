"""Chat templates that people meet: thinking blocks, begun answers, tools, other ends."""

from __future__ import annotations

from typing import Any

import pytest

from dpo_bench.data.chat import ChatTemplate
from dpo_bench.data.formats import PreferencePair
from dpo_bench.data.problems import RowProblem
from dpo_bench.data.rendering import render
from dpo_bench.errors import ConfigurationError
from tests.data.build import CHATML, assistant, chatml, plain, user

CHAT = PreferencePair([user("Hi")], [assistant("yes")], [assistant("no")])
SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
HEAD = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}BODY{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\nOPENING' }}{% endif %}"
)


def with_template(template: str, **options: Any) -> Any:
    return plain(
        eos_token="<|endoftext|>", extra_special_tokens=SPECIAL, chat_template=template, **options
    )


def thinking(body: str, opening: str) -> Any:
    return with_template(HEAD.replace("BODY", body).replace("OPENING", opening))


def test_an_empty_thought_of_finished_turns_belongs_to_the_response() -> None:
    # Qwen3: the generation prompt opens nothing, finished turns hold an empty thought.
    tokenizer = thinking("{{ '<think>\n\n</think>\n\n' + m['content'] }}", "")
    texts = render(CHAT, ChatTemplate(tokenizer))
    assert texts.prompt.endswith("<|im_start|>assistant\n")
    assert texts.chosen == "<think>\n\n</think>\n\nyes<|im_end|>"


def test_an_opened_thought_that_finished_turns_close_is_closed_by_the_response() -> None:
    tokenizer = thinking("{{ '<think>\n\n</think>\n\n' + m['content'] }}", "<think>\n")
    texts = render(CHAT, ChatTemplate(tokenizer))
    assert texts.prompt.endswith("assistant\n<think>\n")
    assert texts.chosen == "\n</think>\n\nyes<|im_end|>"


@pytest.mark.parametrize("answer", ["yes", "<b>yes</b>", "<think>aloud", "<"])
def test_an_opened_thought_that_finished_turns_leave_out_is_no_part_of_the_prompt(
    answer: str,
) -> None:
    # DeepSeek-R1. The prompt ends where the template's own texts part, whatever the answer says.
    tokenizer = thinking("{{ m['content'] }}", "<think>\n")
    pair = PreferencePair([user("Hi")], [assistant(answer)], [assistant("no")])
    texts = render(pair, ChatTemplate(tokenizer))
    assert texts.prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert texts.chosen == f"{answer}<|im_end|>"


def test_a_setting_reaches_the_template() -> None:
    opening = (
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    )
    tokenizer = with_template(
        HEAD.replace("BODY", "{{ m['content'] }}").replace(
            "{{ '<|im_start|>assistant\nOPENING' }}", "{{ '<|im_start|>assistant\n' }}" + opening
        )
    )
    off = ChatTemplate(tokenizer, {"enable_thinking": False})
    assert off.prompt([user("Hi")], {}).endswith("<think></think>")
    assert not ChatTemplate(tokenizer).prompt([user("Hi")], {}).endswith("<think></think>")


def test_a_rows_own_setting_goes_before_the_files() -> None:
    tokenizer = with_template("{{ mood }}" + CHATML)
    template = ChatTemplate(tokenizer, {"mood": "calm"})
    assert template.prompt([user("Hi")], {}).startswith("calm")
    pair = PreferencePair(
        [user("Hi")], [assistant("yes")], [assistant("no")], template_arguments={"mood": "wild"}
    )
    assert render(pair, template).prompt.startswith("wild")


def test_tools_reach_the_template() -> None:
    tokenizer = with_template("{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML)
    tool = {"type": "function", "function": {"name": "weather", "description": "the sky"}}
    pair = PreferencePair(
        [user("Hi")], [assistant("yes")], [assistant("no")], template_arguments={"tools": [tool]}
    )
    assert '"weather"' in render(pair, ChatTemplate(tokenizer)).prompt


def test_an_argument_that_the_program_gives_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="tokenize is no variable of a chat template"):
        ChatTemplate(chatml(), {"tokenize": True})


def test_a_begun_answer_is_gone_on_with() -> None:
    pair = PreferencePair([user("Hi"), assistant("Well, ")], [assistant("yes")], [assistant("no")])
    texts = render(pair, ChatTemplate(chatml()))
    assert texts.prompt == ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell, ")
    assert (texts.chosen, texts.rejected) == ("yes<|im_end|>", "no<|im_end|>")


def test_a_begun_answer_that_the_template_trims() -> None:
    trimming = CHATML.replace("m['content']", "m['content'] | trim")
    pair = PreferencePair([user("Hi"), assistant("Well, ")], [assistant("yes")], [assistant("no")])
    texts = render(pair, ChatTemplate(with_template(trimming)))
    assert texts.prompt.endswith("assistant\nWell,")
    assert texts.chosen == " yes<|im_end|>"


@pytest.mark.parametrize(
    ("after", "end"),
    [
        ("<|im_end|>\n", "<|im_end|>"),  # ChatML over a base tokenizer, whose EOS is another
        (" <|endoftext|>", "<|endoftext|>"),  # Llama 2
        ("\n<|im_end|>\n<|endoftext|>", "<|im_end|>"),  # two: the first ends the turn
        ("\n\n", None),  # none: then it is EOS that ends a response
        ("###", None),
    ],
)
def test_the_token_that_ends_a_turn(after: str, end: str | None) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ':' + m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ '" + after.replace("\n", "\\n") + "' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
    )
    tokenizer = with_template(template)
    found = ChatTemplate(tokenizer).turn_end
    assert found == (None if end is None else tokenizer.convert_tokens_to_ids(end))
    chosen = render(CHAT, ChatTemplate(tokenizer)).chosen
    assert chosen == ("yes" + after if end is None else "yes" + after[: after.index(end)] + end)


def test_a_template_that_demands_a_system_message_has_an_end_too() -> None:
    demanding = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no') }}{% endif %}"
    tokenizer = with_template(demanding + CHATML)
    template = ChatTemplate(tokenizer)
    assert template.turn_end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    with pytest.raises(RowProblem, match=r"refuses the messages \(no\)"):
        render(CHAT, template)


PARTS = (
    "{% for m in messages %}{{ m['role'] + ':' }}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.mark.parametrize("template", [PARTS, PARTS.replace("part['text']", "part.text.strip()")])
def test_a_template_that_reads_parts_and_loses_texts_is_given_parts(template: str) -> None:
    tokenizer = with_template(template)
    lost = tokenizer.apply_chat_template([user("Hi")], tokenize=False)
    assert "Hi" not in lost, "what transformers makes of a plain text"
    texts = render(CHAT, ChatTemplate(tokenizer))
    assert texts.prompt == "user:Hi<|im_end|>\nassistant:"
    assert (texts.chosen, texts.rejected) == ("yes<|im_end|>", "no<|im_end|>")
    assert ChatTemplate(tokenizer).turn_end == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_template_that_loses_the_answer_is_named() -> None:
    tokenizer = with_template(
        "{{ messages[0]['content'] }}{% if add_generation_prompt %}>{% endif %}"
    )
    with pytest.raises(ConfigurationError, match="the policy's chat template cannot be used"):
        render(CHAT, ChatTemplate(tokenizer))


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10 ** 14 }}",
    ],
    ids=["loops", "fills the memory"],
)
def test_a_template_that_does_not_end_is_refused(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpo_bench.data.chat.SECONDS_TO_WRITE", 0.3)
    with pytest.raises(ConfigurationError, match="chat template does not end"):
        ChatTemplate(with_template(template)).prompt([user("a")], {})


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{{ 2.0 ** 99999 }}"])
def test_what_a_template_runs_into_is_a_problem_of_the_row(template: str) -> None:
    with pytest.raises(RowProblem, match="refuses the messages"):
        ChatTemplate(with_template(template)).prompt([user("a")], {})
