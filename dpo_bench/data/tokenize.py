"""Preference pairs to token ids, with an exact boundary between prompt and response."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from dpo_bench.data.chat import ChatTemplate
from dpo_bench.data.encoding import Encoder
from dpo_bench.data.ends import Ends
from dpo_bench.data.limits import Limits, Sides
from dpo_bench.data.pairs import LoadedPairs
from dpo_bench.data.problems import Reason, RowProblem, require_some, stopping_error
from dpo_bench.data.rendering import PairTexts, render
from dpo_bench.data.rows import SourceLocation
from dpo_bench.data.tokenized import Ragged, Tally, TokenizedPairs, Tokens
from dpo_bench.experiment.config import Data
from dpo_bench.progress import Progress, quiet

__all__ = ["TokenizedPairs", "tokenize"]

Result = TypeVar("Result")


def tokenize(
    pairs: LoadedPairs,
    tokenizer: Any,
    options: Data,
    *,
    listed_ends: Sequence[int] = (),
    keep_texts: bool = True,
    progress: Progress = quiet,
) -> TokenizedPairs:
    """Tokenize pairs.

    A plain prompt is what the tokenizer puts before a text (BOS, if it does) and the prompt's
    tokens; a chat's prompt is what the tokenizer's chat template writes, no token added. A response
    is tokenized apart from it, without special tokens, and EOS is appended unless a token that ends
    responses is already there; see `Ends`. Decoded together, prompt and response are the two texts,
    one after the other.

    Args:
        pairs: valid pairs.
        tokenizer: of the policy, from transformers.
        options: limits in tokens, what becomes of pairs beyond them, arguments of the template.
        listed_ends: ids that the policy's maker lists as ends of a response.
        keep_texts: whether prompts and chosen responses are also kept as text.
        progress: told after every block of texts.

    Raises:
        DataError: a pair over a limit, without tokens, or refused by the chat template (unless the
            options say to leave such pairs out), or no pair is left.
        ConfigurationError: the tokenizer has no EOS, or chat data and no chat template.
    """
    return _Run(tokenizer, options, listed_ends, progress).tokenize(pairs, keep_texts)


class _Run:
    """One tokenization: the tools, and the count of what is left out."""

    def __init__(
        self, tokenizer: Any, options: Data, listed_ends: Sequence[int], progress: Progress
    ) -> None:
        self.encoder = Encoder(tokenizer)
        self.template = ChatTemplate(tokenizer, options.chat_template_kwargs)
        self.ends = Ends.of(self.template, listed_ends)
        self.limits = Limits.of(options)
        self.may_drop_invalid = options.invalid == "drop"
        self.progress = progress
        self.dropped: Counter[str] = Counter()

    def tokenize(self, pairs: LoadedPairs, keep_texts: bool) -> TokenizedPairs:
        rendered = self._usable(
            lambda row: render(pairs.pairs[row], self.template), pairs.places, range(len(pairs))
        )
        raw = dict(zip(rendered, self._encode(list(rendered.values())), strict=True))
        ended = self._usable(lambda row: self._ended(raw[row]), pairs.places, rendered)
        fitted = self._usable(lambda row: self._fit(ended[row]), pairs.places, ended)
        require_some(len(fitted), self.dropped, pairs.source)
        cut = [
            [len(after) < len(before) for before, after in zip(ended[row], sides, strict=True)]
            for row, sides in fitted.items()
        ]
        tally = Tally(
            truncated_prompts=sum(prompt for prompt, _, _ in cut),
            truncated_responses=sum(chosen + rejected for _, chosen, rejected in cut),
            dropped=dict(self.dropped),
        )
        prompt, chosen, rejected = (
            Ragged.of(list(side)) for side in zip(*fitted.values(), strict=True)
        )
        margins = np.array([pairs.pairs[row].margin for row in fitted], np.float64)  # None: NaN
        tokenized = TokenizedPairs(
            prompt,
            chosen,
            rejected,
            tally=tally,
            margins=None if np.isnan(margins).all() else margins,
        )
        if not keep_texts:
            return tokenized
        cut_prompts = [index for index, (prompt, _, _) in enumerate(cut) if prompt]
        return self._with_texts(tokenized, [rendered[row] for row in fitted], cut_prompts)

    def _usable(
        self, step: Callable[[int], Result], places: Sequence[SourceLocation], rows: Iterable[int]
    ) -> dict[int, Result]:
        """What a step makes of each row; rows that it cannot use are left out and counted."""
        made: dict[int, Result] = {}
        for row in rows:
            try:
                made[row] = step(row)
            except RowProblem as problem:
                if not self.limits.allow_dropping(problem.reason, self.may_drop_invalid):
                    raise stopping_error(places[row], problem) from None
                self.dropped[problem.reason.value] += 1
        return made

    def _with_texts(
        self, pairs: TokenizedPairs, texts: Sequence[PairTexts], cut: Sequence[int]
    ) -> TokenizedPairs:
        """The same with the texts as the model reads them, and the messages that they came from."""
        prompts = [text.prompt for text in texts]
        decoded = self.encoder.decode([pairs.prompt[index] for index in cut])
        for index, text in zip(cut, decoded, strict=True):
            prompts[index] = text
        chosen = self.encoder.decode([pairs.chosen[index] for index in range(len(pairs))])
        return replace(
            pairs,
            prompt_texts=tuple(prompts),
            chosen_texts=tuple(chosen),
            prompt_messages=tuple(text.messages for text in texts),
        )

    def _encode(self, texts: Sequence[PairTexts]) -> list[Sides]:
        """Token ids of each text, responses without an end token of ours."""
        prompts = self.encoder.encode(
            [text.prompt for text in texts],
            continuing=False,
            phase="tokenizing prompts",
            progress=self.progress,
        )
        responses = self.encoder.encode(
            [response for text in texts for response in (text.chosen, text.rejected)],
            continuing=True,
            phase="tokenizing responses",
            progress=self.progress,
        )
        return [
            Sides(
                self._begin(prompt) if text.messages is None else prompt,
                responses[2 * row],
                responses[2 * row + 1],
            )
            for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
        ]

    def _begin(self, prompt: Tokens) -> Tokens:
        """A plain prompt with what the tokenizer puts before it, unless the text has it already."""
        prefix = self.encoder.prefix
        if np.array_equal(prompt[: len(prefix)], prefix):
            return prompt
        return np.concatenate([prefix, prompt])

    def _ended(self, sides: Sides) -> Sides:
        if not len(sides.prompt):
            raise RowProblem(
                Reason.NO_TOKENS,
                "the prompt gives no token, and the tokenizer puts none (BOS) before it",
            )
        chosen, rejected = self.ends.end(sides.chosen), self.ends.end(sides.rejected)
        if 1 in (len(chosen), len(rejected)):
            raise RowProblem(Reason.NO_TOKENS, "a response gives no token but EOS")
        if np.array_equal(chosen, rejected):
            raise RowProblem(Reason.IDENTICAL, "both responses give the same tokens")
        return Sides(sides.prompt, chosen, rejected)

    def _fit(self, sides: Sides) -> Sides:
        return self.limits.fit(sides, self.encoder.leading(sides.prompt))
