"""Texts that grow by a token at a time, all at the same time: with a cache of the past or without.

For models to which `dpo_bench.model.slot_rows` is not open.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dpo_bench.data.batches import consecutive_passes

if TYPE_CHECKING:
    from dpo_bench.model.logprob_backends import LogprobBackend, Sampler

Tokens = Sequence[int]


class Growing(Protocol):
    """Texts that grow by a token at a time.

    There is a row per prompt at first; `spread` makes a row per response of them, so that a prompt
    is read once for all of its responses.
    """

    def states(self) -> Tensor:
        """What the path's `logits` needs to predict each row's next token; [row, anything]."""

    def select(self, index: Tensor) -> None:
        """Make row ``r`` what row ``index[r]`` is; shape [row]."""

    def append(self, tokens: Tensor) -> None:
        """Add a token to each row; shape [row]."""


class CachedRows:
    """Texts whose past stays in a cache, padded on the left where they are of unlike lengths."""

    def __init__(self, backend: LogprobBackend, prompts: Sequence[Tokens], *, padded: bool) -> None:
        from transformers import DynamicCache

        self.backend = backend
        device = backend.device
        width = max(len(prompt) for prompt in prompts)
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = torch.as_tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        self.tokens = tokens.to(device)
        self.mask = mask.to(device) if padded else None
        self.positions = (mask.cumsum(-1) - 1).clamp_(min=0).to(device)
        self.cache = DynamicCache(config=backend.model.config)
        accepted = inspect.signature(backend.body.forward).parameters
        self.cache_name = cache_argument(accepted)
        passes_on = any(one.kind is one.VAR_KEYWORD for one in accepted.values())
        self.takes_positions = padded and (passes_on or "position_ids" in accepted)
        self.constant = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def states(self) -> Tensor:
        """From a pass over what is new of each row."""
        inputs: dict[str, Any] = {"input_ids": self.tokens, "use_cache": True, **self.constant}
        inputs[self.cache_name] = self.cache
        if self.mask is not None:
            inputs["attention_mask"] = self.mask
        if self.takes_positions:
            inputs["position_ids"] = self.positions
        return self.backend.last_states(inputs)

    def select(self, index: Tensor) -> None:
        """Pick rows of the cache too; every kind of layer has its own way to do that."""
        self.cache.reorder_cache(index)  # type: ignore[arg-type]  # its tensors are of one class
        self.tokens, self.positions = self.tokens[index], self.positions[index]
        if self.mask is not None:
            self.mask = self.mask[index]

    def append(self, tokens: Tensor) -> None:
        """The next pass sees these tokens alone."""
        self.tokens = tokens[:, None]
        self.positions = self.positions[:, -1:] + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(self.tokens)], dim=1)


def cache_argument(accepted: Collection[str]) -> str:
    """What a model that accepts these arguments calls its cache; transformers 5.24 renamed it."""
    return "past_key_values" if "past_key_values" in accepted else "cache"


class UncachedRows:
    """Texts that are read anew for every token, as they are when they are scored."""

    def __init__(self, backend: LogprobBackend, prompts: Sequence[Tokens]) -> None:
        self.backend = backend
        self.texts = [list(prompt) for prompt in prompts]

    def states(self) -> Tensor:
        """From passes over the whole texts."""
        sizes = np.asarray([len(text) + 1 for text in self.texts], np.int64)
        parts = []
        for rows in consecutive_passes(sizes, self.backend.tokens_per_pass()):
            texts = self.texts[rows.start : rows.stop]
            # The state that predicts a response's first token is the one that is asked for.
            parts.append(
                self.backend.states(self.backend.response_batch(texts, [[0]] * len(texts)))
            )
        return torch.cat(parts)

    def select(self, index: Tensor) -> None:
        """Pick rows."""
        self.texts = [list(self.texts[row]) for row in index.tolist()]

    def append(self, tokens: Tensor) -> None:
        """Each text gets its token."""
        for text, token in zip(self.texts, tokens.tolist(), strict=True):
            text.append(token)


def growing_rows(backend: LogprobBackend, prompts: Sequence[Tokens], sampler: Sampler) -> Growing:
    """Texts that grow from these prompts, in one of the ways; ``equal`` wants equal lengths."""
    if sampler == "uncached":
        return UncachedRows(backend, prompts)
    return CachedRows(backend, prompts, padded=sampler == "batched")
