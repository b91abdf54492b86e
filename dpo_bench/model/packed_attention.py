"""Attention over a `Pack`: an implementation that transformers' models call like their own.

Each text is gathered with a copy of its prompt, so attention is plain causal self-attention, which
every fast kernel knows; only here do the tokens of a prompt count once per response.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dpo_bench.data.packing import Pack

NAME = "dpo_bench_packed"
HARMLESS = {
    "position_ids",
    "position_embeddings",
    "use_cache",
    "output_attentions",
    "cache_position",
}
"""Arguments that do not change what causal attention gives."""
_pack: ContextVar[Pack] = ContextVar("pack")


class UnsupportedAttentionError(Exception):
    """A model asks for more than causal attention within each text."""


@contextlib.contextmanager
def packed_attention(model: Any, pack: Pack) -> Iterator[None]:
    """While this is open, the model's attention stays within the texts of a pack.

    Args:
        model: of transformers; its configuration is put back afterwards.
        pack: what it is about to be given.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    # Of a model of several kinds of input the text's configuration lies inside the other.
    # (set_attn_implementation would walk over all modules.)
    configs = (model.config, model.config.get_text_config())
    before = [config._attn_implementation for config in configs]  # noqa: SLF001
    token = _pack.set(pack)
    for config in configs:
        config._attn_implementation = NAME  # noqa: SLF001
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name  # noqa: SLF001
        _pack.reset(token)


def open_pack() -> Pack | None:
    """The pack whose attention is open; None outside `packed_attention`."""
    return _pack.get(None)


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
    """Causal attention of each text; shapes [1, head, token, width] -> [1, token, head, width]."""
    pack = _pack.get()
    _require_plain(pack, attention_mask, dropout, options)
    rows = [_to_slots(part, pack) for part in (query, key, value)]
    found = []
    start = 0
    for bucket in pack.buckets:
        end = start + bucket.rows * bucket.length
        q, k, v = (
            part[start:end].unflatten(0, (bucket.rows, bucket.length)).transpose(1, 2)
            for part in rows
        )
        grouped = q.shape[1] != k.shape[1]
        out = scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        found.append(out.transpose(1, 2).flatten(0, 1))
        start = end
    slots = found[0] if len(found) == 1 else torch.cat(found)
    return _FromSlots.apply(slots, pack)[None], None  # type: ignore[no-untyped-call]


def _require_plain(
    pack: Pack, mask: Tensor | None, dropout: float, options: dict[str, Any]
) -> None:
    longest = max((bucket.length for bucket in pack.buckets), default=0)
    window = options.pop("sliding_window", None)
    unknown = [
        name
        for name, value in options.items()
        if name not in HARMLESS and value is not None and name != "is_causal"
    ]
    if options.get("is_causal") is False:
        unknown.append("is_causal=False")
    if window is not None and window < longest:
        unknown.append(f"a sliding window of {window} tokens")
    if mask is not None:
        unknown.append("a mask")
    if dropout:
        unknown.append("dropout")
    if unknown:
        raise UnsupportedAttentionError(f"attention with {', '.join(unknown)}")


def _to_slots(values: Tensor, pack: Pack) -> Tensor:
    """[1, head, token, width] -> [slot, head, width]."""
    rows: Tensor = _ToSlots.apply(values[0].transpose(0, 1), pack)  # type: ignore[no-untyped-call]
    return rows


class _ToSlots(torch.autograd.Function):
    """Copies of tokens into slots; the gradients of all copies add up, always in the same order.

    Both directions are gathers: torch's own gradient of an indexed tensor adds row by row, which is
    slow on a CPU and, on a GPU, adds in no fixed order.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, pack: Pack) -> Tensor:
        context.pack = pack
        return values.index_select(0, pack.token_of_slot)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        pack: Pack = context.pack
        total = gradients[0].index_select(0, pack.slot_of_token)
        for tokens, slots in zip(pack.shared_tokens, pack.shared_slots, strict=True):
            total[tokens] += gradients[0].index_select(0, slots)
        return total, None


class _FromSlots(torch.autograd.Function):
    """Each token from its slot; what the other slots hold has no gradient."""

    @staticmethod
    def forward(context: Any, values: Tensor, pack: Pack) -> Tensor:
        context.pack = pack
        context.shape = values.shape
        return values.index_select(0, pack.slot_of_token)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].new_zeros(context.shape)
        total[context.pack.slot_of_token] = gradients[0]
        return total, None
