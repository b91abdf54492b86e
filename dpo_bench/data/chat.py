"""A tokenizer's chat template: what it writes of messages, and with which token it ends a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from dpo_bench.data.arguments import RESERVED
from dpo_bench.data.problems import Reason, RowProblem
from dpo_bench.deadline import DeadlineError, deadline
from dpo_bench.errors import ConfigurationError

QUESTION, ANSWER = "Qx7questionQx7", "Qx7answerQx7"
"""Contents that no template writes by itself; what stands around them is the template's."""
PROBE_ANSWER = {"role": "assistant", "content": ANSWER}
PROBES: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": QUESTION}],
    [{"role": "system", "content": "a"}, {"role": "user", "content": QUESTION}],
)
"""Beginnings of a conversation, one of which every template takes."""
SECONDS_TO_WRITE = 20.0
"""Within which a template has written a conversation: a template is a program, and can loop."""
RENDERING = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TemplateError,
    TypeError,
    ValueError,
)
"""What a template runs into that does not fit the messages."""
LOST = "it leaves out what the messages say"


class ChatTemplate:
    """The chat template of a tokenizer, with the arguments that every text is written with.

    Args:
        tokenizer: from transformers.
        arguments: ``data.chat_template_kwargs``; a row's own come before them.

    Raises:
        ConfigurationError: an argument that the template is never to be given.
    """

    def __init__(self, tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.arguments = dict(arguments or {})
        if wrong := sorted(RESERVED & set(self.arguments)):
            raise ConfigurationError(
                f"data.chat_template_kwargs: {wrong[0]} is no variable of a chat template; "
                "it is given by the program."
            )

    @property
    def exists(self) -> bool:
        """Whether the tokenizer has one."""
        return bool(self.tokenizer.chat_template)

    def prompt(self, messages: Sequence[Any], arguments: Mapping[str, Any]) -> str:
        """What the model reads before it answers; a begun assistant message is gone on with."""
        begun = messages[-1]["role"] == "assistant"
        return self._write(
            messages, arguments, add_generation_prompt=not begun, continue_final_message=begun
        )

    def conversation(self, messages: Sequence[Any], arguments: Mapping[str, Any]) -> str:
        """A conversation that ends with a finished answer."""
        return self._write(messages, arguments)

    def response(
        self,
        prompt: str,
        messages: Sequence[Any],
        answer: Mapping[str, Any],
        arguments: Mapping[str, Any],
    ) -> tuple[str, str]:
        """Prompt and response of a conversation, as the model reads and would write them.

        Some templates open a thinking block for the answer to come and leave it out of finished
        turns. Then the prompt ends where both texts part, as in TRL: what the template writes of
        an answer is what is trained.

        Args:
            prompt: what `prompt` gave of the same messages.
            messages: of the prompt; the last may be a begun answer.
            answer: the assistant's message; of a begun one its continuation.
            arguments: of this row.

        Raises:
            RowProblem: the template refuses the messages, or does not write the whole conversation
                so that it begins with the prompt.
        """
        whole = self.conversation(answered(messages, answer), arguments)
        if whole.startswith(prompt):
            return prompt, whole[len(prompt) :]
        probe = self.conversation(answered(messages, {**answer, "content": ANSWER}), arguments)
        header = probe[: probe.rfind(ANSWER)]
        shared = _common_length(prompt, header)
        before = self._write(messages, arguments) if messages[-1]["role"] != "assistant" else None
        fits = ANSWER in probe and before is not None and shared >= len(before)
        if not fits or not whole.startswith(header):
            raise RowProblem(
                Reason.TEMPLATE,
                "the chat template writes the whole conversation so that it does not begin with "
                f"the prompt; the prompt ends {prompt[-40:]!r}",
            )
        return prompt[:shared], whole[shared:]

    @cached_property
    def fault(self) -> str:
        """What is wrong with the template where it writes no plain conversation; else empty."""
        reason = ""
        for messages in PROBES:
            try:
                written = self.response(self.prompt(messages, {}), messages, PROBE_ANSWER, {})
            except RowProblem as problem:
                reason = reason or problem.detail
                continue
            if QUESTION in written[0] and ANSWER in written[1]:
                return ""
            reason = LOST
        return reason

    def require_usable(self) -> None:
        """Tell a template that fits no conversation from a row that does not fit the template.

        Raises:
            ConfigurationError: it writes none of the plainest conversations rightly.
        """
        if self.fault:
            raise ConfigurationError(
                f"the policy's chat template cannot be used: {self.fault}. If a variable of the "
                "template mends it, set it under data.chat_template_kwargs; else give plain-text "
                "pairs."
            )

    @cached_property
    def turn_end(self) -> int | None:
        """Id of the token that the template writes after an assistant's answer; None without one.

        It is the token that a model of this template learnt to end its answers with, whatever the
        tokenizer calls EOS.
        """
        token = self._end_token
        return None if token is None else int(self.tokenizer.convert_tokens_to_ids(token))

    def ended(self, response: str) -> str:
        """A response up to the token that ends its turn.

        What the template writes behind that (a newline, mostly) belongs to the next turn: the model
        never writes it. Without such a token, white space is part of the answer.
        """
        token, after = self._end_token, self._after_answer
        if token is None or not response.endswith(after):
            return response
        return response[: len(response) - len(after) + after.index(token) + len(token)]

    @cached_property
    def _after_answer(self) -> str:
        """What the template writes behind an assistant's answer."""
        whole = self._probe(parts=self.reads_parts) if self.exists else None
        return "" if whole is None else whole[whole.rfind(ANSWER) + len(ANSWER) :]

    @cached_property
    def reads_parts(self) -> bool:
        """Whether the template reads contents as lists of parts, and loses plain texts.

        Templates of models that also see pictures do.
        """
        return self._probe(parts=False) is None and self._probe(parts=True) is not None

    def _probe(self, *, parts: bool) -> str | None:
        """A short conversation as the template writes it; None where it loses what was said."""
        for beginning in PROBES:
            try:
                whole = self._write(answered(beginning, PROBE_ANSWER), {}, parts=parts)
            except RowProblem:
                continue
            if QUESTION in whole and ANSWER in whole:
                return whole
        return None

    @cached_property
    def _end_token(self) -> str | None:
        """The added token (special ones are among these) that stands first behind an answer."""
        text = self._after_answer.lstrip()
        known = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        found = [content for content in known if content and text.startswith(content)]
        return max(found, key=len, default=None)

    def _write(
        self,
        messages: Sequence[Any],
        arguments: Mapping[str, Any],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        parts: bool | None = None,
    ) -> str:
        if not self.exists:
            raise ConfigurationError(
                "the preferences are chat messages, but the policy's tokenizer has no chat "
                "template: take a policy that has one, or plain-text preferences."
            )
        parts = self.reads_parts if parts is None else parts
        try:
            with deadline(SECONDS_TO_WRITE):
                text = self.tokenizer.apply_chat_template(
                    _in_parts(messages) if parts else list(messages),
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=continue_final_message,
                    **{**self.arguments, **arguments},
                )
        except (DeadlineError, MemoryError) as problem:
            raise ConfigurationError(
                f"the policy's chat template does not end ({problem or 'out of memory'}): take "
                "another policy, or give plain-text pairs."
            ) from None
        except RENDERING as problem:
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            raise RowProblem(
                Reason.TEMPLATE, f"the chat template refuses the messages ({reason})"
            ) from None
        return str(text)


def answered(messages: Sequence[Any], answer: Mapping[str, Any]) -> list[Any]:
    """A conversation with its answer; an assistant message that is begun is gone on with."""
    if messages and messages[-1]["role"] == "assistant":
        begun = messages[-1]
        joined = f"{begun.get('content') or ''}{answer['content']}"
        return [*messages[:-1], {**begun, **answer, "content": joined}]
    return [*messages, dict(answer)]


def _in_parts(messages: Sequence[Any]) -> list[Any]:
    """Messages whose contents are lists of parts, texts each."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def _common_length(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))
