"""Responses to other prompts, as losses want them that estimate a KL from them (KTO)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dpo_bench.data.tokenized import TokenizedPairs, Tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Mismatches:
    """For every pair a response to another prompt: fixed by the data, not by batch or seed.

    Pair i takes from the next pair with another prompt its chosen response where i is even, its
    rejected one where i is odd, as data without pairs would have both. Where all prompts are the
    same, nothing else is left than the next pair's.
    """

    def __init__(self, pairs: TokenizedPairs) -> None:
        self.pairs = pairs

    @cached_property
    def partners(self) -> NDArray[np.int64]:
        """The pair whose response each pair takes, shape [pair]."""
        count = len(self.pairs)
        prompts = [self.pairs.prompt[index].tobytes() for index in range(count)]
        partners = (np.arange(count) + 1) % count
        # Walking backwards round the ring twice, the partner of a next pair with the same prompt
        # is the next one with another.
        for index in [*range(count - 1, -1, -1)] * 2:
            after = (index + 1) % count
            same = prompts[index] == prompts[after]
            found = partners[after] if same else after
            if prompts[found] != prompts[index]:
                partners[index] = found
        return partners

    def response(self, index: int) -> Tokens:
        """Token ids of the response that a pair takes."""
        side = self.pairs.rejected if index % 2 else self.pairs.chosen
        return side[int(self.partners[index])]

    def texts(self, indices: Sequence[int]) -> tuple[list[Tokens], list[Tokens]]:
        """The pairs' prompts and the responses that they take."""
        prompts = [self.pairs.prompt[index] for index in indices]
        return prompts, [self.response(index) for index in indices]
