"""Pairs as the texts that are tokenised: plain ones as they are, chats by the chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dpo_bench.data.formats import PreferencePair
from dpo_bench.data.problems import Reason, RowProblem
from dpo_bench.errors import ConfigurationError


class PairTexts(NamedTuple):
    """Texts of a pair.

    Attributes:
        prompt: what the model reads before it answers.
        chosen: the preferred response as the model would write it.
        rejected: the other one.
        is_chat: whether the template wrote them, with the special tokens that they need.
    """

    prompt: str
    chosen: str
    rejected: str
    is_chat: bool


class Renderer:
    """Writes pairs out for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        special = set(tokenizer.all_special_tokens)
        special |= {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        self.special = tuple(special)

    def render(self, pair: PreferencePair) -> PairTexts:
        """The texts of a pair.

        Raises:
            RowProblem: the chat template refuses the messages, or writes a prompt that is not how
                the whole conversation begins: then no boundary would be right.
            ConfigurationError: chat messages, but the tokenizer has no chat template.
        """
        if isinstance(pair.prompt, str):
            return PairTexts(pair.prompt, str(pair.chosen), str(pair.rejected), is_chat=False)
        prompt = self._write(pair.prompt, answer_next=True)
        chosen, rejected = (
            self._response(prompt, [*pair.prompt, *response])
            for response in (pair.chosen, pair.rejected)
        )
        return PairTexts(prompt, chosen, rejected, is_chat=True)

    def _response(self, prompt: str, conversation: Sequence[Any]) -> str:
        whole = self._write(conversation, answer_next=False)
        if not whole.startswith(prompt):
            raise RowProblem(
                Reason.TEMPLATE,
                "the chat template writes the whole conversation so that it does not begin with "
                f"the prompt; the prompt ends {prompt[-40:]!r}",
            )
        response = whole[len(prompt) :]
        # White space after the end-of-turn token belongs to the next turn; the model never writes
        # it. Without such a token, white space is part of the answer.
        ended = response.rstrip()
        return ended if ended.endswith(self.special) else response

    def _write(self, messages: Sequence[Any], *, answer_next: bool) -> str:
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise ConfigurationError(
                "the preferences are chat messages, but the policy's tokenizer has no chat "
                "template: take a policy that has one, or plain-text preferences."
            )
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answer_next
            )
        except (TemplateError, TypeError, ValueError) as problem:
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            raise RowProblem(
                Reason.TEMPLATE, f"the chat template refuses the messages ({reason})"
            ) from None
        return str(text)
