"""The held-out prompts on which every policy is measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dpo_bench.rewards.base import Prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.data.tokenized import TokenizedPairs


@dataclass(frozen=True, slots=True)
class EvaluationPrompts:
    """Distinct held-out prompts and the preference pairs that belong to them.

    Attributes:
        tokens: token ids of each prompt.
        prompts: each prompt as policy, rewards and judges read it.
        chosen: text of the dataset's chosen response (the first pair's, where there are several).
        pairs: the held-out pairs of these prompts.
        prompt_of_pair: index of each pair's prompt, shape [pair].
    """

    tokens: tuple[tuple[int, ...], ...]
    prompts: tuple[Prompt, ...]
    chosen: tuple[str, ...]
    pairs: TokenizedPairs
    prompt_of_pair: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    def pick(self, indices: Iterable[int]) -> list[Prompt]:
        """The prompts of these indices."""
        return [self.prompts[index] for index in indices]


def choose_prompts(heldout: TokenizedPairs, count: int) -> EvaluationPrompts:
    """The first ``count`` distinct prompts of the held-out pairs, or all when there are fewer."""
    index_of: dict[tuple[int, ...], int] = {}
    rows: list[int] = []
    prompt_of_pair: list[int] = []
    first_pair: list[int] = []
    for row in range(len(heldout)):
        prompt = tuple(int(token) for token in heldout.pair(row)[0])
        if prompt not in index_of:
            if len(index_of) == count:
                continue
            index_of[prompt] = len(index_of)
            first_pair.append(row)
        rows.append(row)
        prompt_of_pair.append(index_of[prompt])
    return EvaluationPrompts(
        tokens=tuple(index_of),
        prompts=tuple(
            Prompt.of(heldout.prompt_texts[row], heldout.prompt_messages[row]) for row in first_pair
        ),
        chosen=tuple(heldout.chosen_texts[row] for row in first_pair),
        pairs=heldout.take(rows),
        prompt_of_pair=np.asarray(prompt_of_pair),
    )
