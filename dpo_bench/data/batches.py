"""Which pairs a step sees, and those pairs as padded tensors."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpo_bench.data.tokenized import TokenizedPairs

Ids = Sequence[int] | NDArray[np.int32]


class StepOrder(Sequence[list[int]]):
    """The pairs of every step.

    The pairs are dealt in one endless stream: a fresh permutation of all of them for each epoch,
    one epoch after another, cut into steps of equal size. A step may straddle two epochs; over
    each epoch every pair comes once. Any step is computed directly, so that a resumed run goes on
    with the same pairs. The order depends on the seed and the number of pairs, on nothing else.
    """

    def __init__(self, pairs: int, pairs_per_step: int, steps: int, seed: int) -> None:
        if pairs < 1 or pairs_per_step < 1 or steps < 0:
            raise ValueError(f"no order of {steps} steps of {pairs_per_step} out of {pairs} pairs")
        self.pairs = pairs
        self.pairs_per_step = pairs_per_step
        self.steps = steps
        self.seed = seed

    def __len__(self) -> int:
        return self.steps

    @overload
    def __getitem__(self, step: int) -> list[int]: ...
    @overload
    def __getitem__(self, step: slice) -> list[list[int]]: ...
    def __getitem__(self, step: int | slice) -> list[int] | list[list[int]]:
        """Indices of a step's pairs, counting steps from 0."""
        if isinstance(step, slice):
            return [self[index] for index in range(*step.indices(self.steps))]
        if not -self.steps <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        at = step % self.steps * self.pairs_per_step
        indices: list[int] = []
        while len(indices) < self.pairs_per_step:
            epoch, first = divmod(at + len(indices), self.pairs)
            wanted = self.pairs_per_step - len(indices)
            indices += _permutation(self.pairs, self.seed, epoch)[first : first + wanted].tolist()
        return indices


@lru_cache(maxsize=4)
def _permutation(pairs: int, seed: int, epoch: int) -> NDArray[np.int64]:
    # A seed may be negative; as entropy it must not be.
    entropy = np.random.SeedSequence(seed % 2**64, spawn_key=(epoch,))
    return np.random.Generator(np.random.PCG64(entropy)).permutation(pairs)


def step_order(pairs: int, pairs_per_step: int, steps: int, seed: int) -> StepOrder:
    """The pairs of every step: ``order[step]`` gives exactly ``pairs_per_step`` indices.

    Args:
        pairs: number of training pairs.
        pairs_per_step: pairs of each optimizer step; may exceed ``pairs``.
        steps: number of optimizer steps.
        seed: sets the order; the loss never does.

    >>> order = step_order(pairs=3, pairs_per_step=2, steps=3, seed=0)
    >>> sorted(order[0] + order[1] + order[2])
    [0, 0, 1, 1, 2, 2]
    """
    return StepOrder(pairs, pairs_per_step, steps, seed)


def split_passes(
    pairs: TokenizedPairs, indices: Sequence[int], pairs_per_pass: int = 0, tokens_per_pass: int = 0
) -> list[list[int]]:
    """Cut a step's pairs into forward passes; which pairs are in the step never changes.

    Pairs of similar length share a pass, the longest first, so that little is padded and a step
    that does not fit into memory fails at once.

    Args:
        pairs: tokenized pairs.
        indices: those of the step.
        pairs_per_pass: most pairs of a pass; 0 means any number.
        tokens_per_pass: most tokens of a pass, the prompt counted once; 0 means any number. A pair
            that is longer makes a pass by itself.
    """
    at = np.asarray(indices, np.int64)
    sizes = pairs.sizes[at]
    most = pairs_per_pass or len(at)
    if len(at) <= most and (tokens_per_pass == 0 or sizes.sum() <= tokens_per_pass):
        return [list(indices)]
    passes: list[list[int]] = []
    room = 0
    for place in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[place])
        full = not passes or len(passes[-1]) == most or (tokens_per_pass > 0 and size > room)
        if full:
            passes.append([])
            room = tokens_per_pass
        passes[-1].append(int(at[place]))
        room -= size
    return passes


def deal_passes(
    sizes: NDArray[np.int64], ranks: int, pairs_per_pass: int = 0, tokens_per_pass: int = 0
) -> list[list[list[int]]]:
    """Cut a step's pairs into passes for several ranks, equally many for each.

    It follows from the sizes alone, so that every rank knows all passes without asking. The
    largest pairs are dealt first, each to the pass that has the fewest tokens yet; there are no
    more rounds than the limits ask for.

    Args:
        sizes: tokens of each pair, shape [pair].
        ranks: how many there are.
        pairs_per_pass: most pairs of a pass; 0 means any number.
        tokens_per_pass: most tokens of a pass; 0 means any number. A pair that is longer makes a
            pass by itself.

    Returns:
        places of pairs, [rank][round][place]; a pass may be empty.

    >>> deal_passes(np.array([3, 4, 9, 1]), 2)
    [[[2]], [[1, 0, 3]]]
    """
    order = np.argsort(-sizes, kind="stable").tolist()
    tokens = int(sizes.sum())
    rounds = max(1, -(-tokens // (tokens_per_pass * ranks)) if tokens_per_pass else 1)
    while True:
        passes = _fewest_first(sizes, order, rounds * ranks, pairs_per_pass)
        largest = max((int(sizes[one].sum()) for one in passes or [] if len(one) > 1), default=0)
        if passes is not None and (not tokens_per_pass or largest <= tokens_per_pass):
            return [
                [passes[turn * ranks + rank] for turn in range(rounds)] for rank in range(ranks)
            ]
        rounds += 1


def _fewest_first(
    sizes: NDArray[np.int64], order: list[int], count: int, most: int
) -> list[list[int]] | None:
    """So many passes of at most ``most`` pairs; None where there is no room for all pairs."""
    passes: list[list[int]] = [[] for _ in range(count)]
    waiting = [(0, number) for number in range(count)]
    for place in order:
        if not waiting:
            return None
        tokens, number = heapq.heappop(waiting)
        passes[number].append(place)
        if not most or len(passes[number]) < most:
            heapq.heappush(waiting, (tokens + int(sizes[place]), number))
    return passes


def consecutive_passes(sizes: NDArray[np.int64], tokens_per_pass: int) -> Iterator[range]:
    """Cut texts into passes of neighbors of at most so many tokens, or of one text.

    >>> list(consecutive_passes(np.array([3, 4, 9, 1]), 8))
    [range(0, 2), range(2, 3), range(3, 4)]
    """
    start = room = 0
    for at, size in enumerate(sizes.tolist()):
        if at > start and size > room:
            yield range(start, at)
            start = at
        if at == start:
            room = tokens_per_pass
        room -= size
    if len(sizes):
        yield range(start, len(sizes))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Padded sequences of prompt and response, and where the response's tokens are predicted.

    Attributes:
        input_ids: prompt, response, padding on the right; int64, shape [row, longest].
        row: row of each response token, shape [token], in the order of the rows.
        position: position whose hidden state predicts the token: one before its own; shape [token].
        target: the token's id, shape [token].
        lengths: response tokens of each row, shape [row].
        index: which pairs these are, shape [pair]; empty where the texts are not taken from pairs.
    """

    input_ids: Tensor
    row: Tensor
    position: Tensor
    target: Tensor
    lengths: Tensor
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device; to a GPU, the copy overlaps with what the CPU does next."""
        return Batch(*to_device([getattr(self, one.name) for one in fields(self)], device))


def to_device(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Integer tensors on a device.

    To a GPU they go together, in one copy that overlaps with what the CPU does next.
    """
    device = torch.device(device)
    if device.type != "cuda" or any(one.device.type != "cpu" for one in tensors):
        return [one.to(device) for one in tensors]
    return parted(joined(tensors).pin_memory().to(device, non_blocking=True), tensors)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """The numbers of integer tensors one after another, in one tensor."""
    return torch.cat([one.long().flatten() for one in tensors])


def parted(numbers: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """What was `joined`, in the shapes that it had; no copies."""
    parts = numbers.split([one.numel() for one in like])
    return [part.view(one.shape) for part, one in zip(parts, like, strict=True)]


def pad_batch(pairs: TokenizedPairs, indices: Sequence[int], pad_id: int = 0) -> Batch:
    """Pad pairs: first the rows of the chosen responses, then those of the rejected ones.

    Args:
        pairs: tokenized pairs.
        indices: which of them.
        pad_id: fills the right-hand side; in a causal model nothing reads it.

    Returns:
        A batch of ``2 * len(indices)`` rows.
    """
    prompts = [pairs.prompt[index] for index in indices]
    responses = [side[index] for side in (pairs.chosen, pairs.rejected) for index in indices]
    batch = pad_responses(prompts * 2, responses, pad_id)
    return replace(batch, index=torch.as_tensor(indices, dtype=torch.long))


def pad_responses(prompts: Sequence[Ids], responses: Sequence[Ids], pad_id: int = 0) -> Batch:
    """Pad prompts with their responses, a row each.

    Raises:
        ValueError: an empty prompt: nothing would predict the first token of its response.
    """
    rows = len(prompts)
    prompt_lengths = np.fromiter(map(len, prompts), np.int64, rows)
    lengths = np.fromiter(map(len, responses), np.int64, len(responses))
    if rows != len(responses) or (rows and prompt_lengths.min() < 1):
        raise ValueError("every response needs a prompt of at least one token")
    longest = int((prompt_lengths + lengths).max(initial=0))
    ids = np.full((rows, longest), pad_id, np.int64)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids[row, : len(prompt)] = prompt
        ids[row, len(prompt) : len(prompt) + len(response)] = response
    row_of = np.repeat(np.arange(rows), lengths)
    # The k-th token of a response of a prompt of p tokens stands at p + k, predicted at p + k - 1.
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    position = prompt_lengths[row_of] + within - 1
    target = ids[row_of, position + 1]
    return Batch(*(torch.from_numpy(array) for array in (ids, row_of, position, target, lengths)))
