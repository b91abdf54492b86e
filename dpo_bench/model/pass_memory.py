"""What a forward and backward pass takes of a model's memory, measured without having the memory.

The model's own modules run on fake tensors (shapes and dtypes, no values), with the backend and the
batches of a real pass, and what is alive is counted. So it holds for any architecture, and nothing
is known here of layers. Two passes, of one size and of half of it, part what grows with the tokens
from what does not.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Linear as LinearLayer
from torch.nn import Parameter

from dpo_bench.data.batches import pad_batch
from dpo_bench.data.packing import pack_pairs
from dpo_bench.model.growing_rows import cache_argument
from dpo_bench.model.linear_head import target_logps
from dpo_bench.model.live_bytes import LiveBytes, tensor_bytes
from dpo_bench.model.logprob_backends import (
    AnyBatch,
    FullLogitsBackend,
    HiddenStateBackend,
    LogprobBackend,
)
from dpo_bench.model.logprobs import GPU_TOKENS_AT_ONCE, token_logps, tokens_at_once
from dpo_bench.model.module_copy import copy_over

if TYPE_CHECKING:
    from dpo_bench.data.tokenized import TokenizedPairs

log = logging.getLogger(__name__)

CACHED_TOKENS = (32, 96)
"""Tokens of the two texts by which the cache of keys and values is measured."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A number of bytes that grows with the tokens.

    Attributes:
        fixed: bytes without any.
        each: bytes of a token.
    """

    fixed: float
    each: float

    @classmethod
    def through(cls, one: tuple[int, float], other: tuple[int, float]) -> Linear:
        """The line through two points (tokens, bytes)."""
        each = (other[1] - one[1]) / (other[0] - one[0])
        return cls(one[1] - each * one[0], each)

    def at(self, tokens: float) -> float:
        """Bytes at so many tokens."""
        return self.fixed + self.each * tokens


@dataclass(frozen=True, slots=True)
class PassMemory:
    """What a pass takes besides weights, gradients and the optimizer's state.

    Attributes:
        kept: bytes that lie between the forward and the backward pass of the layers.
        layers: bytes alive at the worst moment of the layers' passes.
        logits: bytes that the head takes besides what is kept: logits by the slice.
    """

    kept: Linear
    layers: Linear
    logits: Linear

    def at(self, tokens: float) -> float:
        """Bytes of a pass of so many tokens, at the worst moment."""
        return max(self.layers.at(tokens), self.kept.at(tokens) + self.logits.at(tokens))

    def tokens(self, free: float) -> int:
        """Most tokens of a pass that takes at most so many bytes; 0 when there are none."""
        both = Linear(self.kept.fixed + self.logits.fixed, self.kept.each + self.logits.each)
        most = min((free - line.fixed) / max(line.each, 1.0) for line in (self.layers, both))
        return max(0, int(most))


def fake_backend(
    backend: LogprobBackend, dtype: torch.dtype | None = None
) -> tuple[LogprobBackend, FakeTensorMode]:
    """The same backend to a model of the same modules whose tensors have no values.

    Args:
        backend: of a model, with weights or on the meta device.
        dtype: of the weights; None: as they are.

    Returns:
        it, and the mode in which alone it runs.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def empty(one: Tensor) -> Tensor:
        kind = dtype if dtype is not None and one.is_floating_point() else one.dtype
        with mode:
            return torch.empty(one.shape, dtype=kind, device="cpu")

    fake = copy.copy(backend)
    fake.model = copy_over(backend.model, empty)
    return fake, mode


def skeleton_backend(model: Any, precision: str) -> LogprobBackend:
    """The backend that a model most likely gets; which one it is only its numbers tell.

    Args:
        model: on the meta device.
        precision: ``fp32`` or ``bf16``.
    """
    base = getattr(model, "base_model", model)
    if base is model or model.get_output_embeddings() is None:
        return FullLogitsBackend(model, precision)
    return HiddenStateBackend(model, precision, packs=True)


def measure_pass(
    backend: LogprobBackend,
    pairs: TokenizedPairs,
    tokens: int,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> PassMemory | None:
    """What passes of about so many tokens take; None of an architecture that fakes do not run.

    Those are models whose work depends on values, such as experts that are chosen token by token.

    Args:
        backend: of the policy, or of its skeleton.
        pairs: their lengths matter: the first ones are taken, again and again if need be.
        tokens: of the larger of two passes, a pair's prompt counted once.
        dtype: of the weights that the passes compute with; None: as they are.
        device: of the passes, ``cpu`` or ``cuda``; there need be none.
    """
    ways = {backend.packs: backend, False: _padded(backend)}
    for way in ways.values():
        try:
            return _measure(*fake_backend(way, dtype), pairs, tokens, device)
        except Exception as error:  # whatever a model's code does not do without values
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    log.info(
        "what a pass of %s takes is not known before it is made (%s)",
        type(backend.model).__name__,
        reason,
    )
    return None


def cached_bytes(backend: LogprobBackend, dtype: torch.dtype | None = None) -> Linear | None:
    """Bytes that the cache of the past holds of one text while it is sampled, by its tokens.

    None where the model has no such cache, or fakes do not run it.
    """
    from transformers import DynamicCache

    fake, mode = fake_backend(backend, dtype)
    found = []
    name = cache_argument(inspect.signature(fake.body.forward).parameters)
    try:
        for length in CACHED_TOKENS:
            cache = DynamicCache(config=fake.model.config)
            with mode, torch.no_grad(), fake.autocast():
                ids = torch.zeros(1, length, dtype=torch.long)
                fake.body(input_ids=ids, use_cache=True, **{name: cache})
            layers = [vars(layer).values() for layer in cache.layers]
            found.append(
                tensor_bytes(one for layer in layers for one in layer if isinstance(one, Tensor))
            )
    except Exception as error:  # likewise
        log.debug("%s has no cache that can be measured: %s", type(backend.model).__name__, error)
        return None
    return Linear.through(*zip(CACHED_TOKENS, found, strict=True)) if found[0] else None


def _padded(backend: LogprobBackend) -> LogprobBackend:
    other = copy.copy(backend)
    # A mask takes next to nothing, and whether it masks anything is asked of its values.
    other.packs = other.masks_padding = False
    return other


def _measure(
    backend: LogprobBackend,
    mode: FakeTensorMode,
    pairs: TokenizedPairs,
    tokens: int,
    device: str,
) -> PassMemory:
    size = float(pairs.sizes.mean())
    most = max(2, round(tokens / size))
    points: dict[str, list[tuple[int, float]]] = {"kept": [], "layers": [], "logits": []}
    for count in (most // 2, most):
        indices = [at % len(pairs) for at in range(count)]
        batch = (pack_pairs if backend.packs else pad_batch)(pairs, indices)
        with mode:
            found = _one_pass(backend, fake_batch(batch), device)
        for name, value in found.items():
            points[name].append((int(pairs.sizes[indices].sum()), value))
    return PassMemory(**{name: Linear.through(*both) for name, both in points.items()})


def fake_batch(batch: AnyBatch) -> AnyBatch:
    """A batch whose tensors have no values; in the mode of fakes."""
    changes: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = torch.empty_like(value)
        elif field.name != "buckets":
            changes[field.name] = tuple(torch.empty_like(one) for one in value)
    return replace(batch, **changes)


def _one_pass(backend: LogprobBackend, batch: AnyBatch, device: str) -> dict[str, float]:
    """Bytes of one pass, by the fields of `PassMemory`; of fakes, in their mode."""
    trained = [one for one in backend.model.parameters() if one.requires_grad]
    for one in trained:
        one.grad = torch.zeros_like(one)  # as from the second pass of a step on
    known = [*backend.model.parameters(), *backend.model.buffers()]
    known += [one.grad for one in trained if one.grad is not None]
    body = LiveBytes(known)
    with body:
        states = backend.run(backend.states, batch)
        kept = body.now
        torch.autograd.backward(states, torch.ones_like(states))
    return {
        "kept": kept,
        "layers": body.peak,
        "logits": _logits_bytes(backend, states, batch, known, device),
    }


def _logits_bytes(
    backend: LogprobBackend, states: Tensor, batch: AnyBatch, known: Sequence[Tensor], device: str
) -> int:
    """Bytes that the head takes, there and back, of states that are there."""
    head = backend.model.get_output_embeddings()
    at_once = tokens_at_once(backend) if device == "cpu" else GPU_TOKENS_AT_ONCE
    is_plain = type(backend) is HiddenStateBackend and type(head) is LinearLayer
    if not is_plain or (device == "cpu" and len(states) <= at_once):
        leaf = torch.empty_like(states, requires_grad=True)
        given = copy.copy(backend)
        given.states = lambda batch: leaf  # type: ignore[method-assign]  # noqa: ARG005
        live = LiveBytes([*known, leaf])
        with live:
            token_logps(given, batch).sum().backward()
        return live.peak
    # Fakes are on a CPU, where factors in bf16 are widened first; on a GPU the product alone is
    # wide, and of the logits' gradient there is a narrow copy.
    dtype = states.dtype if device == "cpu" else torch.float32
    leaf = torch.empty_like(states, dtype=dtype, requires_grad=True)
    weight = torch.empty_like(head.weight, dtype=dtype, requires_grad=head.weight.requires_grad)
    live = LiveBytes([*known, leaf, weight])
    with live:
        target_logps(leaf, weight, None, batch.target, at_once).sum().backward()
    narrow = 2 * min(len(leaf), at_once) * backend.vocabulary
    return live.peak + (narrow if dtype != states.dtype else 0)


def weights_of(model: Any, *, trained: bool) -> int:
    """How many numbers a model's parameters are, tied ones once: trained ones, or frozen ones."""
    found: Iterable[Parameter] = model.parameters()
    return sum(one.numel() for one in found if one.requires_grad == trained)
