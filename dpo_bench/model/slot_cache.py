"""Keys and values of texts that grow token by token, each text in a slot of a fixed size.

Nothing is moved when a token is added, a text that has ended gives its slot to the next one at once
(continuous batching: Yu et al. 2022, Orca), and no text is padded to the length of its neighbors.
Models of transformers call `_attend` like an attention of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dpo_bench.model.packed_attention import (
    UnsupportedAttentionError,
    attending_by,
    require_plain,
)

NAME = "dpo_bench_slots"
FREE_SHARE = 0.7
"""Share of a GPU's free memory that slots may take; the rest is for the passes themselves."""


class Entry(NamedTuple):
    """Keys and values of one layer; shape [text, head, token, width]."""

    keys: Tensor
    values: Tensor


class SlotCache:
    """Slots for the keys and values of texts of at most ``capacity`` tokens.

    The tensors are made when it is known what a layer keeps of a token.

    Args:
        capacity: tokens of a slot.
        slots: most texts at once; on a GPU no more than its free memory holds.

    Attributes:
        layers: of each layer, keys and values; shape [slot, head, token, width].
    """

    def __init__(self, capacity: int, slots: int) -> None:
        self.capacity = capacity
        self.slots = slots
        self.layers: list[Entry] = []

    def make(self, like: Sequence[Entry]) -> None:
        """Make the tensors.

        Args:
            like: what the layers keep of any texts.

        Raises:
            UnsupportedAttentionError: they keep nothing that is known of.
        """
        if not like:
            raise UnsupportedAttentionError("attention of its own")
        device = like[0].keys.device
        if device.type == "cuda":
            token = sum(part[0, :, 0].numel() * part.element_size() for one in like for part in one)
            free = int(FREE_SHARE * torch.cuda.mem_get_info(device)[0])
            self.slots = max(1, min(self.slots, free // (token * self.capacity)))

        def empty(part: Tensor) -> Tensor:
            # Zeros, as what no text has written yet is multiplied by a weight of zero.
            return part.new_zeros(self.slots, part.shape[1], self.capacity, part.shape[3])

        self.layers = [Entry(*map(empty, one)) for one in like]

    def put(self, slots: Tensor, entries: Sequence[Entry], texts: Tensor) -> None:
        """Copy texts that were read to the beginning of slots; shapes [text]."""
        for whole, part in self._beside(entries):
            whole[slots, :, : part.shape[2]] = part[texts]

    def move(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy the first tokens of slots to other slots; shapes [text]."""
        for whole, same in self._beside(self.layers):
            whole[target, :, :length] = same[source, :, :length]

    def _beside(self, entries: Sequence[Entry]) -> Iterator[tuple[Tensor, Tensor]]:
        for layer, entry in zip(self.layers, entries, strict=True):
            yield from zip(layer, entry, strict=True)


@dataclass(eq=False)
class Reading:
    """A pass over whole texts from their first tokens on.

    Attributes:
        entries: what the layers so far keep of them.
    """

    entries: list[Entry] = field(default_factory=list)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Causal attention; [text, head, token, width]."""
        self.entries.append(Entry(_as_computed(key), _as_computed(value)))
        grouped = query.shape[1] != key.shape[1]
        return scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
        )


@dataclass(eq=False)
class Growing:
    """A pass over the next token of each text in the first slots.

    Attributes:
        cache: holds what was before, and then this token too.
        slots: 0, 1, ...: those of the texts; shape [text].
        places: of the new tokens in them; shape [text].
        width: tokens of the longest text, the new one included.
        mask: 0 where a text has a token, minus infinity behind; shape [text, 1, 1, width]; None:
            all texts have the same length.
        layer: number of the next layer.
    """

    cache: SlotCache
    slots: Tensor
    places: Tensor
    width: int
    mask: Tensor | None
    layer: int = 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Attention to all tokens of each text; [text, head, 1, width]."""
        layer = self.cache.layers[self.layer]
        self.layer += 1
        texts, heads, _, width = query.shape
        for whole, new in zip(layer, (key, value), strict=True):
            whole[self.slots, :, self.places] = new[:, :, 0].to(whole.dtype)
        keys, values = (whole[:texts, :, : self.width] for whole in layer)
        # The queries that share a head of keys stand where a text's further tokens would: so
        # neither has to be repeated.
        shared = keys.shape[1]
        grouped = query.to(keys.dtype).reshape(texts, shared, heads // shared, width)
        mask = None if self.mask is None else self.mask.to(keys.dtype)
        found = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
        return found.reshape(texts, heads, 1, -1)


_pass: ContextVar[Reading | Growing] = ContextVar("pass")


@contextlib.contextmanager
def attending(model: Any, kind: Reading | Growing) -> Iterator[None]:
    """While this is open a model's attention is that of a pass.

    Args:
        model: of transformers; its configuration is put back afterwards.
        kind: the pass.
    """
    token = _pass.set(kind)
    try:
        with attending_by(model, NAME, _attend):
            yield
    finally:
        _pass.reset(token)


def _attend(  # noqa: PLR0917  # transformers calls it so
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of a pass; [text, head, token, width] -> [text, token, head, width]."""
    kind = _pass.get()
    width = kind.width if isinstance(kind, Growing) else key.shape[2]
    require_plain(width, attention_mask, dropout, options)
    return kind.attend(query, key, value, scaling).transpose(1, 2), None


def _as_computed(part: Tensor) -> Tensor:
    """In the precision in which attention is computed: what is kept is not converted again."""
    device = part.device.type
    if torch.is_autocast_enabled(device):
        return part.to(torch.get_autocast_dtype(device))
    return part


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """0 for a text's tokens, minus infinity behind; [text] -> [text, 1, 1, width]."""
    behind = torch.arange(width, device=lengths.device) >= lengths[:, None]
    mask = torch.zeros(behind.shape, device=lengths.device).masked_fill_(behind, -torch.inf)
    return mask[:, None, None]
