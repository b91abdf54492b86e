"""Attention over a `Pack`: an implementation that transformers' models call like their own.

Each text is gathered with a copy of its prompt, so attention is plain causal self-attention, which
every fast kernel knows; only here do the tokens of a prompt count once per response. It is computed
bucket by bucket, or, by a kernel that knows where each text begins, for all texts at once.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dpo_bench.data.packing import Pack
from dpo_bench.model import varlen

NAME = "dpo_bench_packed"
Kernel = Literal["buckets", "varlen"]
HARMLESS = {
    "position_ids",
    "position_embeddings",
    "use_cache",
    "output_attentions",
    "cache_position",
}
"""Arguments that do not change what causal attention gives."""


class UnsupportedAttentionError(Exception):
    """A model asks for more than causal attention within each text."""


class OpenPack:
    """A pack whose texts attention stays within, and how it is computed.

    Attributes:
        pack: the texts.
        kernel: ``buckets`` or ``varlen``.
        starts: first slot of each text and the end of the last; int32, shape [text + 1].
        longest: slots of the longest text.
        ticket: a number by which compiled code finds this again; on the CPU, shape [1].
    """

    def __init__(self, pack: Pack, kernel: Kernel) -> None:
        self.pack = pack
        self.kernel = kernel
        self.longest = max((bucket.length for bucket in pack.buckets), default=0)
        self.starts = pack.starts.int() if kernel == "varlen" else None
        number = next(_numbers)
        self.ticket = torch.full((1,), number)
        _opened[number] = self


class _Current:
    """What is open: an attribute that compiled code can read."""

    def __init__(self) -> None:
        self.pack: OpenPack | None = None
        self.ticket = torch.zeros(1, dtype=torch.long)


_current = _Current()
_numbers = itertools.count(1)
_opened: weakref.WeakValueDictionary[int, OpenPack] = weakref.WeakValueDictionary()


@contextlib.contextmanager
def packed_attention(
    model: Any, pack: Pack | OpenPack, kernel: Kernel = "buckets"
) -> Iterator[None]:
    """While this is open, the model's attention stays within the texts of a pack.

    Args:
        model: of transformers; its configuration is put back afterwards.
        pack: what it is about to be given.
        kernel: how it is computed.
    """
    outer = _current.pack, _current.ticket
    opened = pack if isinstance(pack, OpenPack) else OpenPack(pack, kernel)
    _current.pack, _current.ticket = opened, opened.ticket
    try:
        with attending_by(model, NAME, _attend):
            yield
    finally:
        _current.pack, _current.ticket = outer


@contextlib.contextmanager
def attending_by(model: Any, name: str, attend: Callable[..., Any]) -> Iterator[None]:
    """While this is open a model calls another function for its attention.

    Args:
        model: of transformers; its configuration is put back afterwards.
        name: what the function is registered by.
        attend: as transformers calls attention.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(name, attend)
    # Of a model of several kinds of input the text's configuration lies inside the other.
    # (set_attn_implementation would walk over all modules.)
    configs = (model.config, model.config.get_text_config())
    before = [config._attn_implementation for config in configs]  # noqa: SLF001
    for config in configs:
        config._attn_implementation = name  # noqa: SLF001
    try:
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation = own  # noqa: SLF001


def open_pack() -> OpenPack | None:
    """The pack whose attention is open; None outside `packed_attention`."""
    return _current.pack


def keeping_pack(values: Tensor) -> Tensor:
    """The same values; the open pack is kept for as long as their gradient may be asked for.

    Compiled code knows a pack by its ticket alone.
    """
    kept: Tensor = _Keep.apply(values, _current.pack)  # type: ignore[no-untyped-call]
    return kept


class _Keep(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, opened: OpenPack | None) -> Tensor:
        context.opened = opened
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004  # autograd's
        return slopes[0], None


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
    if torch.compiler.is_compiling():
        # What a model asks for was seen when its backend was chosen.
        return _compiled_attention(query, key, value, _current.ticket, scaling), None
    opened = _current.pack
    if opened is None:
        raise LookupError("no pack is open")
    require_plain(opened.longest, attention_mask, dropout, options)
    return _attention(query, key, value, opened, scaling), None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, opened: OpenPack, scaling: float | None
) -> Tensor:
    """The same of an open pack."""
    pack = opened.pack
    rows = [_to_slots(part, pack) for part in (query, key, value)]
    if opened.kernel == "varlen" and opened.starts is not None:
        q, k, v = (part.to(value.dtype) for part in rows)
        slots = varlen.causal(q, k, v, opened.starts, opened.longest, scaling)
    else:
        slots = _by_bucket(rows, pack, scaling)
    return _FromSlots.apply(slots, pack)[None]  # type: ignore[no-any-return, no-untyped-call]


def _by_bucket(rows: list[Tensor], pack: Pack, scaling: float | None) -> Tensor:
    """Attention of the texts of each bucket together; shapes [slot, head, width]."""
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
    return found[0] if len(found) == 1 else torch.cat(found)


def require_plain(
    longest: int, mask: Tensor | None, dropout: float, options: dict[str, Any]
) -> None:
    """Refuse what a model asks for beyond causal attention within texts of at most so many tokens.

    Args:
        longest: tokens of the longest text.
        mask: as transformers hands it over; likewise the others.
        dropout: a probability.
        options: further arguments by name; a window is taken out of them.

    Raises:
        UnsupportedAttentionError: it asks for more.
    """
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


# Compiled code sees one operator: its shapes do not depend on how a pass is cut into texts, so a
# layer is compiled once. It finds its pack by the ticket, also when its gradient is taken while
# another pack is open.


@torch.library.custom_op("dpo_bench::packed_attention", mutates_args=())
def _compiled_attention(
    query: Tensor, key: Tensor, value: Tensor, ticket: Tensor, scaling: float | None
) -> Tensor:
    return _attention(query, key, value, _opened[int(ticket)], scaling).contiguous()


@_compiled_attention.register_fake
def _(
    query: Tensor, _key: Tensor, value: Tensor, _ticket: Tensor, _scaling: float | None
) -> Tensor:
    return value.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


@torch.library.custom_op("dpo_bench::packed_attention_backward", mutates_args=())
def _compiled_gradient(  # noqa: PLR0917  # as the operator has them
    slope: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ticket: Tensor,
    scaling: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention is computed once more: of a layer it is the smallest part."""
    with _recording():
        inputs = [one.detach().requires_grad_() for one in (query, key, value)]
        out = _attention(inputs[0], inputs[1], inputs[2], _opened[int(ticket)], scaling)
    of_query, of_key, of_value = torch.autograd.grad(out, inputs, slope)
    return of_query.contiguous(), of_key.contiguous(), of_value.contiguous()


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Let autograd record inside an operator, where torch has switched it off."""
    key = torch._C.DispatchKey.AutogradFunctionality  # noqa: SLF001  # torch's own operators do so
    with torch._C._SetExcludeDispatchKeyGuard(key, False), torch.enable_grad():  # noqa: SLF001
        yield


@_compiled_gradient.register_fake
def _(  # as the operator has them
    _slope: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _ticket: Tensor,
    _scaling: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  # its names are torch's
    ctx.save_for_backward(*inputs[:4])
    ctx.scaling = inputs[4]


def _gradient(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    return (*_compiled_gradient(slope, *ctx.saved_tensors, ctx.scaling), None, None)


_compiled_attention.register_autograd(_gradient, setup_context=_remember)
