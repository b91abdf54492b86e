"""Plain text as a chat: what a model with a chat template is to be given."""

from __future__ import annotations

import re
from dataclasses import replace

from dpo_bench.data.conversations import with_system
from dpo_bench.data.formats import PreferencePair
from dpo_bench.data.messages import Message
from dpo_bench.data.problems import Reason, RowProblem
from dpo_bench.data.templates import PROMPT_ONLY, RESPONSE_ONLY
from dpo_bench.experiment.config import Data

HH_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def could_be_wrapped(pair: PreferencePair, options: Data) -> bool:
    """Whether a pair stays plain text only because nobody said what is meant.

    Not where the experiment file says itself how prompt or response are written
    (``data.prompt_template``, ``data.response_template``), or ``data.chat`` is ``off``.
    """
    own = (options.prompt_template, options.response_template) != (PROMPT_ONLY, RESPONSE_ONLY)
    return options.chat == "auto" and not own and isinstance(pair.prompt, str)


def as_chat(pair: PreferencePair, system: str | None = None) -> PreferencePair:
    r"""A plain pair as messages: the prompt one user's turn, or the turns of the HH format.

    White space around a text is no part of it: between a plain prompt and its response it stands
    for what a chat template writes there. A pair of messages is returned as it is.

    Args:
        pair: plain or chat.
        system: content of a system message; omitted: what the row says.

    Raises:
        RowProblem: without the white space, a text is empty or both responses are the same.

    >>> pair = PreferencePair("\n\nHuman: Hi\n\nAssistant:", " Hello.", " Go.")
    >>> as_chat(pair, system="Be kind.").prompt  # doctest: +NORMALIZE_WHITESPACE
    [{'role': 'system', 'content': 'Be kind.'}, {'role': 'user', 'content': 'Hi'}]
    """
    if not isinstance(pair.prompt, str):
        return pair
    prompt = _turns(pair.prompt)
    chosen, rejected = (str(text).strip() for text in (pair.chosen, pair.rejected))
    if not all((prompt[-1]["content"], chosen, rejected)):
        raise RowProblem(Reason.EMPTY, "prompt and responses of a chat must not be empty")
    if chosen == rejected:
        raise RowProblem(Reason.IDENTICAL, "both responses are the same but for white space")
    return replace(
        pair,
        prompt=with_system(prompt, pair.system if system is None else system),
        chosen=[{"role": "assistant", "content": chosen}],
        rejected=[{"role": "assistant", "content": rejected}],
        system=None,
    )


def _turns(prompt: str) -> list[Message]:
    """The turns of a plain prompt; the last one is the user's, or an answer that is begun."""
    text = prompt.strip()
    marks = list(HH_TURN.finditer(text))
    if not marks or marks[0].start() or marks[0][1] != "Human":
        return [{"role": "user", "content": text}]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns = [
        {"role": HH_ROLES[mark[1]], "content": text[mark.end() : end].strip()}
        for mark, end in zip(marks, ends, strict=True)
    ]
    answer_begins = turns[-1]["role"] == "assistant" and not turns[-1]["content"]
    return turns[:-1] if answer_begins else turns
