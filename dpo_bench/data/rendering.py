"""Pairs as the texts that are tokenized: plain ones as they are, chats by the chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dpo_bench.data.chat import LOST, ChatTemplate
from dpo_bench.data.formats import PreferencePair
from dpo_bench.data.problems import Reason, RowProblem


class PairTexts(NamedTuple):
    """Texts of a pair.

    Attributes:
        prompt: what the model reads before it answers.
        chosen: the preferred response as the model would write it.
        rejected: the other one.
        messages: the prompt's messages, where the template wrote the texts, with the special tokens
            that they need; None for plain text.
    """

    prompt: str
    chosen: str
    rejected: str
    messages: Sequence[Any] | None = None


def render(pair: PreferencePair, template: ChatTemplate) -> PairTexts:
    """The texts of a pair.

    Raises:
        RowProblem: the chat template refuses the messages, or writes a prompt that is not how the
            whole conversation begins: then no boundary would be right.
        ConfigurationError: chat messages, but the tokenizer has no chat template, or one that
            writes no conversation rightly.
    """
    if isinstance(pair.prompt, str):
        return PairTexts(pair.prompt, str(pair.chosen), str(pair.rejected))
    try:
        if template.exists and template.fault == LOST:
            template.require_usable()
        return _written(pair, template)
    except RowProblem:
        template.require_usable()
        raise


def _written(pair: PreferencePair, template: ChatTemplate) -> PairTexts:
    begun = template.prompt(pair.prompt, pair.template_arguments)
    (prompt, chosen), (other, rejected) = (
        template.response(begun, pair.prompt, response[0], pair.template_arguments)
        for response in (pair.chosen, pair.rejected)
        if not isinstance(response, str)
    )
    if prompt != other:
        raise RowProblem(
            Reason.TEMPLATE, "the chat template writes another prompt for either response"
        )
    return PairTexts(prompt, template.ended(chosen), template.ended(rejected), pair.prompt)
