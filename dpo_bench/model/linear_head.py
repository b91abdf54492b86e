"""Log-probs of target tokens from a linear output embedding, without keeping any logits.

For a vocabulary of V and states of width D, logits of a few thousand tokens are made at a time. The
forward pass keeps one number a token, the logarithm of the softmax's normalizer; the backward pass
makes the logits again, turns them in place into their own gradient and hands that on. So neither
logits nor their gradient ever exist for all tokens, and the softmax's sums are made only once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, log_softmax

HALVES = (torch.bfloat16, torch.float16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of logits and log-probs for weights of this one: at least fp32."""
    return torch.float32 if dtype in HALVES else dtype


def product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in `wide` precision; shapes [n, k], [k, m] -> [n, m].

    Factors in bf16 are multiplied as they are, and their products are added up and given in fp32:
    by the tensor cores of a GPU, and elsewhere, where torch has no such product, after being
    widened, which changes no value.
    """
    if left.dtype not in HALVES:
        return left @ right
    if left.is_cuda and _mm_widens():
        return torch.mm(left, right, out_dtype=torch.float32)
    with _tf32(left.device):  # it holds every bit of a factor in bf16
        return left.float() @ right.float()


def _mm_widens() -> bool:
    """Whether this torch multiplies bf16 into fp32 (some versions do, on CUDA alone)."""
    return "dtype" in torch.ops.aten.mm.overloads()


@contextlib.contextmanager
def _tf32(device: torch.device) -> Iterator[None]:
    """Let a GPU multiply fp32 by its tensor cores while this is open, and only then.

    A setting for the whole process would also reach the probes of `choose_backend`, which would
    take its rounding for a model's fault.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def linear_logits(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits in `wide` precision, of shape [token, vocabulary]; differentiable.

    Args:
        states: shape [.., token, width].
        weight: shape [vocabulary, width]; of the states' precision.
        bias: likewise; shape [vocabulary], or None.
    """
    if states.dtype not in HALVES:
        return linear(states, weight, bias)
    logits: Tensor = _WideLinear.apply(  # type: ignore[no-untyped-call]
        states.flatten(0, -2), weight, bias
    )
    return logits.view(*states.shape[:-1], -1)


class _WideLinear(torch.autograd.Function):
    """A linear layer in bf16 whose result is in fp32."""

    @staticmethod
    def forward(context: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(states, weight)
        logits = product(states, weight.t())
        return logits if bias is None else logits.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        states, weight = context.saved_tensors
        of_states, of_weight, of_bias = context.needs_input_grad
        narrow = slopes.to(states.dtype)
        return (
            product(narrow, weight).to(states.dtype) if of_states else None,
            product(narrow.t(), states).to(weight.dtype) if of_weight else None,
            slopes.sum(0).to(weight.dtype) if of_bias else None,
        )


def target_logps(
    states: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, tokens_at_once: int
) -> Tensor:
    """Log-prob of each target token; shape [token], nats, in `wide` precision, differentiable.

    Args:
        states: what the output embedding is given, in its precision; shape [token, width].
        weight: the output embedding; shape [vocabulary, width].
        bias: shape [vocabulary], or None.
        target: token ids; shape [token].
        tokens_at_once: most tokens whose logits are held at once.
    """
    logps: Tensor = _TargetLogps.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, target, tokens_at_once
    )
    return logps


class _TargetLogps(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  # autograd hands them over so
        context: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        tokens_at_once: int,
    ) -> Tensor:
        logps = states.new_empty(len(states), dtype=wide(states.dtype))
        normalizer = torch.empty_like(logps)
        for part in _slices(len(states), tokens_at_once):
            logits = linear_logits(states[part], weight, bias)
            every = log_softmax(logits, -1)
            logps[part] = every.gather(-1, target[part, None]).squeeze(-1)
            # The most likely token's: of an unlikely one the difference would be rounded more.
            normalizer[part] = logits.amax(-1) - every.amax(-1)
        context.save_for_backward(states, weight, bias, target, normalizer)
        context.tokens_at_once = tokens_at_once
        return logps

    @staticmethod
    @once_differentiable
    def backward(context: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, target, normalizer = context.saved_tensors
        of_states, of_weight, of_bias = (
            torch.zeros_like(value, dtype=wide(value.dtype)) if wanted else None
            for value, wanted in zip(
                (states, weight, bias), context.needs_input_grad[:3], strict=True
            )
        )
        for part in _slices(len(states), context.tokens_at_once):
            logits = linear_logits(states[part], weight, bias)
            # d logp / d logits = (1 at the target) - softmax
            slopes = logits.sub_(normalizer[part, None]).exp_().mul_(-slope[part, None])
            slopes.scatter_add_(1, target[part, None], slope[part, None])
            if of_bias is not None:
                of_bias += slopes.sum(0)
            slopes = slopes.to(states.dtype)
            if of_states is not None:
                of_states[part] = product(slopes, weight)
            if of_weight is not None:
                of_weight += product(slopes.t(), states[part])
        return (
            None if of_states is None else of_states.to(states.dtype),
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            None,
            None,
        )


def _slices(tokens: int, at_once: int) -> Iterator[slice]:
    return (slice(start, min(start + at_once, tokens)) for start in range(0, tokens, at_once))
