"""Preference pairs to token ids, with an exact boundary between prompt and response."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dpo_bench.data.encoding import Encoder
from dpo_bench.data.limits import Limits, Sides
from dpo_bench.data.pairs import LoadedPairs
from dpo_bench.data.problems import Reason, RowProblem, require_some, stopping_error
from dpo_bench.data.rendering import PairTexts, Renderer
from dpo_bench.data.rows import Place
from dpo_bench.data.tokenised import Ragged, Tally, TokenisedPairs, Tokens
from dpo_bench.experiment.config import Data
from dpo_bench.progress import Progress, quiet

__all__ = ["TokenisedPairs", "tokenise"]


def tokenise(
    pairs: LoadedPairs,
    tokenizer: Any,
    options: Data,
    *,
    keep_texts: bool = True,
    progress: Progress = quiet,
) -> TokenisedPairs:
    """Tokenise pairs.

    A plain prompt is what the tokenizer puts before a text (BOS, if it does) and the prompt's
    tokens; a chat's prompt is what the tokenizer's chat template writes, no token added. A response
    is tokenised apart from it, without special tokens, and EOS is appended unless it is already
    there. Decoded together, prompt and response are the two texts, one after the other.

    Args:
        pairs: valid pairs.
        tokenizer: of the policy, from transformers.
        options: limits in tokens, and what becomes of pairs beyond them.
        keep_texts: whether prompts and chosen responses are also kept as text.
        progress: told after every block of texts.

    Raises:
        DataError: a pair over a limit, without tokens, or refused by the chat template (unless the
            options say to leave such pairs out), or no pair is left.
        ConfigurationError: the tokenizer has no EOS, or chat data and no chat template.
    """
    return _Run(tokenizer, options, progress).tokenise(pairs, keep_texts)


class _Run:
    """One tokenisation: the tools, and the count of what is left out."""

    def __init__(self, tokenizer: Any, options: Data, progress: Progress) -> None:
        self.encoder = Encoder(tokenizer)
        self.renderer = Renderer(tokenizer)
        self.limits = Limits.of(options)
        self.may_drop_invalid = options.invalid == "drop"
        self.progress = progress
        self.dropped: Counter[str] = Counter()

    def tokenise(self, pairs: LoadedPairs, keep_texts: bool) -> TokenisedPairs:
        texts, places, margins = self._render(pairs)
        raw = self._encode(texts)
        kept, sides = self._fit_all(raw, places)
        require_some(len(sides), self.dropped, pairs.source)
        cut = [
            [len(after) < len(before) for before, after in zip(raw[row], fitted, strict=True)]
            for row, fitted in zip(kept, sides, strict=True)
        ]
        cut_prompts = [index for index, (prompt, _, _) in enumerate(cut) if prompt]
        tally = Tally(
            truncated_prompts=len(cut_prompts),
            truncated_responses=sum(chosen + rejected for _, chosen, rejected in cut),
            dropped=dict(self.dropped),
        )
        prompt, chosen, rejected = (Ragged.of(list(side)) for side in zip(*sides, strict=True))
        kept_margins = np.array([margins[row] for row in kept], np.float64)  # None becomes NaN
        tokenised = TokenisedPairs(
            prompt,
            chosen,
            rejected,
            tally=tally,
            margins=None if np.isnan(kept_margins).all() else kept_margins,
        )
        if not keep_texts:
            return tokenised
        return self._with_texts(tokenised, [texts[row].prompt for row in kept], cut_prompts)

    def _with_texts(
        self, pairs: TokenisedPairs, prompts: list[str], cut: Sequence[int]
    ) -> TokenisedPairs:
        decoded = self.encoder.decode([pairs.prompt[index] for index in cut])
        for index, text in zip(cut, decoded, strict=True):
            prompts[index] = text
        chosen = self.encoder.decode([pairs.chosen[index] for index in range(len(pairs))])
        return replace(pairs, prompt_texts=tuple(prompts), chosen_texts=tuple(chosen))

    def _render(
        self, pairs: LoadedPairs
    ) -> tuple[list[PairTexts], list[Place], list[float | None]]:
        texts: list[PairTexts] = []
        places: list[Place] = []
        margins: list[float | None] = []
        for pair, place in zip(pairs.pairs, pairs.places, strict=True):
            try:
                texts.append(self.renderer.render(pair))
            except RowProblem as problem:
                self._drop(problem, place)
            else:
                places.append(place)
                margins.append(pair.margin)
        return texts, places, margins

    def _encode(self, texts: Sequence[PairTexts]) -> list[Sides]:
        prompts = self.encoder.encode(
            [text.prompt for text in texts],
            continuing=False,
            phase="tokenising prompts",
            progress=self.progress,
        )
        responses = self.encoder.encode(
            [response for text in texts for response in (text.chosen, text.rejected)],
            continuing=True,
            phase="tokenising responses",
            progress=self.progress,
        )
        return [
            Sides(
                prompt if text.is_chat else self._begin(prompt),
                self._end(responses[2 * row]),
                self._end(responses[2 * row + 1]),
            )
            for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
        ]

    def _fit_all(
        self, raw: Sequence[Sides], places: Sequence[Place]
    ) -> tuple[list[int], list[Sides]]:
        """Indices of the pairs that stay, and those pairs within their limits."""
        kept: list[int] = []
        fitted: list[Sides] = []
        for row, (sides, place) in enumerate(zip(raw, places, strict=True)):
            try:
                fitted.append(self._fit(sides))
            except RowProblem as problem:
                self._drop(problem, place)
            else:
                kept.append(row)
        return kept, fitted

    def _begin(self, prompt: Tokens) -> Tokens:
        """A plain prompt with what the tokenizer puts before it, unless the text has it already."""
        prefix = self.encoder.prefix
        if np.array_equal(prompt[: len(prefix)], prefix):
            return prompt
        return np.concatenate([prefix, prompt])

    def _end(self, response: Tokens) -> Tokens:
        if len(response) and response[-1] == self.encoder.eos:
            return response
        return np.append(response, np.int32(self.encoder.eos))

    def _fit(self, sides: Sides) -> Sides:
        if not len(sides.prompt):
            raise RowProblem(
                Reason.NO_TOKENS,
                "the prompt gives no token, and the tokenizer puts none (BOS) before it",
            )
        for response in (sides.chosen, sides.rejected):
            if len(response) == 1:
                raise RowProblem(Reason.NO_TOKENS, "a response gives no token but EOS")
        if np.array_equal(sides.chosen, sides.rejected):
            raise RowProblem(Reason.IDENTICAL, "both responses give the same tokens")
        return self.limits.fit(sides, self.encoder.leading(sides.prompt))

    def _drop(self, problem: RowProblem, place: Place) -> None:
        if not self.limits.allow_dropping(problem.reason, self.may_drop_invalid):
            raise stopping_error(place, problem) from None
        self.dropped[problem.reason.value] += 1
