"""What the contract demands of a loss, one function per demand, each a finding or silence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dpo_bench.contract.example_pairs import extreme_pairs, ordinary_pairs
from dpo_bench.contract.loss import Loss
from dpo_bench.contract.record import PairLogps

POLICY_FIELDS = ("policy_chosen", "policy_rejected")
REFERENCE_FIELDS = ("reference_chosen", "reference_rejected")
STEP = 1e-5  # nats, of the finite differences
TOLERANCE = 1e-6  # of the finite differences, relative; theirs is the error, not the loss's


@dataclass(frozen=True)
class Subject:
    """A loss at fixed hyperparameters, as the checks see it."""

    loss: Loss
    hyperparameters: Mapping[str, float]
    expected: float | None
    batch_coupled: bool

    def values(self, logps: PairLogps) -> Tensor:
        """Loss of each pair, without a gradient."""
        with torch.no_grad():
            return self.loss(logps, **self.hyperparameters)

    def gradients(self, logps: PairLogps) -> tuple[Tensor, Tensor]:
        """Gradient of the weighted sum of the losses with respect to each policy field."""
        leaves = [getattr(logps, name).clone().requires_grad_() for name in POLICY_FIELDS]
        values = self.loss(_with(logps, POLICY_FIELDS, leaves), **self.hyperparameters)
        chosen, rejected = torch.autograd.grad(
            (values * _weights(values)).sum(), leaves, materialize_grads=True
        )
        return chosen, rejected


Check = Callable[[Subject], Iterator[str]]


def _weights(values: Tensor) -> Tensor:
    """A different weight per pair, so that errors of two pairs cannot cancel in a sum."""
    return torch.linspace(0.5, 1.5, len(values), dtype=values.dtype)


def _with(logps: PairLogps, names: Collection[str], tensors: Collection[Tensor]) -> PairLogps:
    return replace(logps, **dict(zip(names, tensors, strict=True)))


def _map(logps: PairLogps, change: Callable[[Tensor], Tensor]) -> PairLogps:
    return PairLogps(**{f.name: change(getattr(logps, f.name)) for f in fields(logps)})


def _describe(logps: PairLogps, pair: int) -> str:
    return (
        f"pair {pair} (log-ratios {logps.chosen_logratio[pair].item():g} and "
        f"{logps.rejected_logratio[pair].item():g} nats, "
        f"{int(logps.chosen_tokens[pair])} and {int(logps.rejected_tokens[pair])} tokens)"
    )


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-9, atol=1e-12, equal_nan=True)


def _shape(subject: Subject) -> Iterator[str]:
    """A tensor with one value per pair, also for a single pair."""
    for pairs in (ordinary_pairs(), _map(ordinary_pairs(), lambda field: field[:1])):
        values: Any = subject.values(pairs)
        wanted = list(pairs.policy_chosen.shape)
        if not isinstance(values, Tensor):
            yield f"returned a {type(values).__name__}, not a tensor of shape [pair]"
        elif list(values.shape) != wanted:
            yield f"returned shape {list(values.shape)} for {wanted[0]} pairs, not {wanted}"


def _dtype(subject: Subject) -> Iterator[str]:
    """The dtype of the log-probs, whether counts are integers or floating-point numbers."""
    for dtype in (torch.float32, torch.float64):
        pairs = ordinary_pairs(dtype)
        counts = (pairs.chosen_tokens.to(dtype), pairs.rejected_tokens.to(dtype))
        for given in (pairs, _with(pairs, ("chosen_tokens", "rejected_tokens"), counts)):
            values = subject.values(given)
            if values.dtype != dtype:
                yield (
                    f"log-probs in {dtype} and counts in {given.chosen_tokens.dtype} "
                    f"gave a loss in {values.dtype}"
                )


def _finite(subject: Subject) -> Iterator[str]:
    """Finite values and gradients at log-ratios of ± 1e4, probability 1 and 10,000 tokens."""
    for dtype in (torch.float64, torch.float32):
        for pairs in (
            ordinary_pairs(dtype),
            extreme_pairs(dtype),
            extreme_pairs(dtype).at_reference(),
        ):
            results = {"value": subject.values(pairs)}
            results |= dict(zip(POLICY_FIELDS, subject.gradients(pairs), strict=True))
            for name, result in results.items():
                if bad := (~result.isfinite()).nonzero().flatten().tolist():
                    what = name if name == "value" else f"gradient with respect to {name}"
                    yield f"{what} is {result[bad[0]]:g} at {_describe(pairs, bad[0])} in {dtype}"


def _gradient(subject: Subject) -> Iterator[str]:
    """Autograd agrees with finite differences in fp64; at a kink, with either side's slope."""
    for pairs in (ordinary_pairs(), ordinary_pairs().at_reference()):
        for name, gradient in zip(POLICY_FIELDS, subject.gradients(pairs), strict=True):
            for pair, found in enumerate(gradient.tolist()):
                left, right = _slopes(subject, pairs, name, pair)
                slack = TOLERANCE * (1 + abs(left) + abs(right))
                if not min(left, right) - slack <= found <= max(left, right) + slack:
                    yield (
                        f"with respect to {name} at {_describe(pairs, pair)} autograd says "
                        f"{found:g}, finite differences say {(left + right) / 2:g}"
                    )


def _slopes(subject: Subject, pairs: PairLogps, name: str, pair: int) -> tuple[float, float]:
    """Slopes of the weighted sum of losses below and above a point, in one policy log-prob."""

    def total(shift: float) -> float:
        moved = getattr(pairs, name).clone()
        moved[pair] += shift
        values = subject.values(_with(pairs, (name,), (moved,)))
        return float((values * _weights(values)).sum())

    below, here, above = total(-STEP), total(0.0), total(STEP)
    return (here - below) / STEP, (above - here) / STEP


def _flow(subject: Subject) -> Iterator[str]:
    """The gradient reaches the policy's log-probs and nothing else."""
    pairs = ordinary_pairs()
    leaves = [getattr(pairs, name).clone().requires_grad_() for name in POLICY_FIELDS]
    values = subject.loss(_with(pairs, POLICY_FIELDS, leaves), **subject.hyperparameters)
    if not values.requires_grad:
        yield "the loss is cut off from the policy: no gradient flows"
        return
    if any(all(leaf is not known for known in leaves) for leaf in _leaves(values)):
        yield "a gradient flows into a tensor that is no log-prob of the policy"
    if not any(gradient.any() for gradient in subject.gradients(pairs)):
        yield "the gradient is zero at every ordinary pair: nothing would be learnt"


def _leaves(values: Tensor) -> Iterator[Tensor]:
    """The leaf tensors that a gradient of ``values`` flows into."""
    seen, waiting = set(), [values.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf
        waiting += [parent for parent, _ in node.next_functions]


def _start(subject: Subject) -> Iterator[str]:
    """Where the policy equals the reference: finite, and the expected value if one is given."""
    values = subject.values(ordinary_pairs().at_reference())
    if not values.isfinite().all():
        yield f"where the policy equals the reference it is {values.tolist()}"
    expected = subject.expected
    if expected is not None:
        off = (values - expected).abs() > 1e-6 * max(1.0, abs(expected))
        if off.any():
            yield (
                f"where the policy equals the reference it is {values[off][0]:g}, "
                f"not the expected {expected:g}"
            )


def _constant_start(subject: Subject) -> Iterator[str]:
    """Where the policy equals the reference, pairs of the same lengths have the same loss."""
    if not subject.loss.needs_reference:
        return
    pairs = ordinary_pairs().at_reference()
    same = torch.full_like(pairs.chosen_tokens, 8)
    values = subject.values(_with(pairs, ("chosen_tokens", "rejected_tokens"), (same, same)))
    if not _close(values, values[:1].expand_as(values)):
        yield (
            "where the policy equals the reference, pairs of the same lengths have different "
            f"losses: {values.min():g} to {values.max():g}"
        )


def _permutation(subject: Subject) -> Iterator[str]:
    """Pairs in another order have their losses in that order."""
    pairs = ordinary_pairs()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    before = subject.values(pairs)
    after = subject.values(_map(pairs, lambda field: field[order]))
    if subject.batch_coupled:  # such a loss may match pairs up anew; the batch's losses stay
        before, after, order = before.sort().values, after.sort().values, torch.arange(len(order))
    if not _close(after, before[order]):
        yield "the losses change when the pairs are put into another order"


def _independence(subject: Subject) -> Iterator[str]:
    """A pair's loss depends on no other pair, unless the loss is batch-coupled."""
    if subject.batch_coupled:
        return
    pairs = ordinary_pairs()
    together = subject.values(pairs)
    alone = [subject.values(_map(pairs, lambda f, i=i: f[i : i + 1])) for i in range(len(together))]  # type: ignore[misc]
    for pair, value in enumerate(alone):
        if not _close(together[pair : pair + 1], value):
            yield (
                f"{_describe(pairs, pair)} has loss {together[pair]:g} among others and "
                f"{value.item():g} alone"
            )


def _determinism(subject: Subject) -> Iterator[str]:
    """The same input gives the same loss, whatever was computed or drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = subject.values(ordinary_pairs())
        torch.manual_seed(1)
        second = subject.values(ordinary_pairs())
    if not torch.equal(first, second):
        yield f"two calls with the same input differ, by up to {(first - second).abs().max():g}"


def _purity(subject: Subject) -> Iterator[str]:
    """The log-probs and counts that it is given stay as they were."""
    given, kept = ordinary_pairs(), ordinary_pairs()
    subject.values(given)
    for field in fields(given):
        tensor = getattr(given, field.name)
        if not torch.equal(tensor, getattr(kept, field.name)) or tensor.requires_grad:
            yield f"it changes {field.name} of its input in place"


def _reference(subject: Subject) -> Iterator[str]:
    """A loss that is declared reference-free does not move with the reference."""
    if subject.loss.needs_reference:
        return
    pairs = ordinary_pairs()
    before = subject.values(pairs)
    for name in REFERENCE_FIELDS:
        moved = _with(pairs, (name,), (getattr(pairs, name) * 1.7 - 3,))
        if not torch.equal(before, subject.values(moved)):
            yield f"it declares needs_reference=False but moves with {name}"


CHECKS: Mapping[str, Check] = {
    "shape": _shape,
    "dtype": _dtype,
    "finite": _finite,
    "gradient": _gradient,
    "flow": _flow,
    "start": _start,
    "constant_start": _constant_start,
    "permutation": _permutation,
    "independence": _independence,
    "determinism": _determinism,
    "purity": _purity,
    "reference": _reference,
}
"""Every check by name; the first line of its docstring says what it demands."""
