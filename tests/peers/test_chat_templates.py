"""The chat templates that TRL brings: how many work, and where the prompt ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dpo_bench.data.chat import ChatTemplate
from dpo_bench.data.formats import PreferencePair
from dpo_bench.data.problems import RowProblem
from dpo_bench.data.rendering import render
from tests.data.build import byte_level, wrap

pytestmark = pytest.mark.peers

trl = pytest.importorskip("trl")
TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
MARK = re.compile(r"<\|[\w ▁-]+\|>|<\uff5c[\w ▁]+\uff5c>|<\|?/?[a-z_]+\|?>|\[/?[A-Z_]+\]")
"""What templates write as special tokens."""
READ_PARTS = ("idefics3", "llava_next", "smolvlm")
"""Templates of models that see pictures, to which transformers gives plain texts that they lose."""
NO_SYSTEM = ("gemma", "gemma_training")
NO_END = ("glm4moe",)
"""Templates that write nothing behind an answer; the next turn's beginning ends it."""


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def tokenizer_of(file: Path) -> Any:
    text = file.read_text("utf-8")
    special = list(dict.fromkeys(["<pad>", "<s>", "</s>", *MARK.findall(text)]))
    tokenizer = wrap(
        tokenizer_object=byte_level(special),
        eos_token="</s>",
        bos_token="<s>",
        pad_token="<pad>",
        additional_special_tokens=special[3:],
    )
    tokenizer.chat_template = text
    return tokenizer


def test_they_are_as_many_as_were_looked_at() -> None:
    assert len(TEMPLATES) == 72


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: str(file.stem))
def test_a_template_works_and_ends_the_prompt_where_trl_does(file: Path) -> None:
    tokenizer = tokenizer_of(file)
    template = ChatTemplate(tokenizer)
    conversations = {
        "question": [user("Hi")],
        "system": [{"role": "system", "content": "Be brief."}, user("Hi")],
        "turns": [user("Hi"), assistant("Hello."), user("And?")],
        "begun": [user("Hi"), assistant("Well, ")],
    }
    for name, prompt in conversations.items():
        pair = PreferencePair(prompt, [assistant("yes it is")], [assistant("no")])
        if name == "system" and file.stem in NO_SYSTEM:
            with pytest.raises(RowProblem, match=r"refuses the messages \(System role not"):
                render(pair, template)
            continue
        texts = render(pair, template)
        assert "Hi" in texts.prompt
        assert "yes it is" in texts.chosen
        assert "no" in texts.rejected
        assert "yes" not in texts.prompt
        if name == "begun" or file.stem.startswith(READ_PARTS):
            continue
        theirs = trl.data_utils.apply_chat_template(
            {"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}, tokenizer
        )
        assert texts.prompt == theirs["prompt"]
        # Ours leaves out what stands behind the token that ends the turn.
        assert theirs["chosen"].startswith(texts.chosen)
        assert not re.sub(r"<[^<>]*>", "", theirs["chosen"][len(texts.chosen) :]).strip()


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: str(file.stem))
def test_what_ends_a_turn_is_one_token(file: Path) -> None:
    tokenizer = tokenizer_of(file)
    end = ChatTemplate(tokenizer).turn_end
    if file.stem in NO_END:
        assert end is None
        return
    texts = render(
        PreferencePair([user("Hi")], [assistant("yes")], [assistant("no")]),
        ChatTemplate(tokenizer),
    )
    ids = tokenizer(texts.chosen, add_special_tokens=False)["input_ids"]
    assert ids[-1] == end
    assert end not in ids[:-1]
