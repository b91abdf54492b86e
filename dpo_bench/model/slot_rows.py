"""Rows of texts that are sampled, each in a slot; a row may end and another begin at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dpo_bench.data.batches import Ids
from dpo_bench.model.slot_cache import (
    Entry,
    Growing,
    Reading,
    SlotCache,
    attending,
    length_mask,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.model.logprob_backends import LogprobBackend


@dataclass(eq=False)
class ReadPrompts:
    """Prompts that a pass has read, from which any number of rows may begin.

    Attributes:
        entries: what the layers keep of them.
        states: what predicts the token behind each; shape [prompt, anything].
        lengths: tokens of each; shape [prompt].
    """

    entries: list[Entry]
    states: Tensor
    lengths: NDArray[np.int64]


class SlotRows:
    """Rows in the first slots of a cache.

    Args:
        backend: a model in which padding behind a text changes nothing.
        capacity: tokens of the longest text.
        slots: most rows at once.

    Attributes:
        lengths: tokens of each row so far; shape [slot].
    """

    def __init__(self, backend: LogprobBackend, capacity: int, slots: int) -> None:
        self.backend = backend
        self.cache = SlotCache(capacity, slots)
        self.lengths = np.zeros(slots, np.int64)
        self._lengths = torch.from_numpy(self.lengths).to(backend.device, copy=True)
        self._slots = torch.arange(slots, device=backend.device)

    @property
    def slots(self) -> int:
        """Most rows at once; settled when the first prompts are read."""
        return self.cache.slots

    def read(self, prompts: Sequence[Ids]) -> ReadPrompts:
        """Read prompts in one pass, padded behind their ends to the length of the longest."""
        lengths = np.asarray([len(prompt) for prompt in prompts], np.int64)
        width = int(lengths.max())
        ids = np.zeros((len(prompts), width), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        inputs: dict[str, Any] = {
            "input_ids": self._index(ids),
            "position_ids": torch.arange(width, device=self.backend.device)[None],
            "use_cache": False,
        }
        reading = Reading()
        ends = np.arange(len(prompts)) * width + lengths - 1
        with attending(self.backend.model, reading):
            states = self.backend.last_states(inputs, self._index(ends))
        if not self.cache.layers:
            self.cache.make(reading.entries)
        return ReadPrompts(reading.entries, states, lengths)

    def begin(self, read: ReadPrompts, prompts: Sequence[int], rows: Sequence[int]) -> Tensor:
        """Let rows begin with prompts.

        Args:
            read: the prompts.
            prompts: the number of the one that each row begins with.
            rows: their slots.

        Returns:
            what predicts the first token of each, shape [row, anything].
        """
        chosen, places = self._index(np.asarray(prompts)), self._index(np.asarray(rows))
        self.cache.put(places, read.entries, chosen)
        lengths = read.lengths[np.asarray(prompts)]
        self.lengths[np.asarray(rows)] = lengths
        self._lengths[places] = self._index(lengths)
        return read.states[chosen]

    def grow(self, tokens: Tensor) -> Tensor:
        """Add a token to each of the first rows, and predict the next; [row] -> [row, anything].

        A row that is as long as its slot has its last token replaced.
        """
        rows, last = len(tokens), self.cache.capacity - 1
        lengths, known = self._lengths[:rows].clamp_(max=last), self.lengths[:rows]
        np.minimum(known, last, out=known)
        width = int(known.max()) + 1
        mask = None if known.min() == width - 1 else length_mask(lengths + 1, width)
        inputs: dict[str, Any] = {
            "input_ids": tokens[:, None],
            "position_ids": lengths[:, None],
            "use_cache": False,
        }
        with attending(
            self.backend.model, Growing(self.cache, self._slots[:rows], lengths, width, mask)
        ):
            states = self.backend.last_states(inputs)
        self._lengths[:rows] += 1
        known += 1
        return states

    def empty(self, rows: NDArray[np.int64]) -> None:
        """Rows that have ended; they go on taking tokens until others take their places."""
        self.lengths[rows] = 0
        self._lengths[self._index(rows)] = 0

    def move(self, source: Tensor, target: Tensor) -> None:
        """Put rows in the places of others; shapes [row]."""
        places = target.cpu().numpy(), source.cpu().numpy()
        self.cache.move(source, target, int(self.lengths[places[1]].max(initial=0)))
        self._lengths[target] = self._lengths[source]
        self.lengths[places[0]] = self.lengths[places[1]]

    def _index(self, values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(self.backend.device)
