"""What the contract demands of a loss, one function per demand, each a finding or silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dpo_bench.contract.loss import Loss
from dpo_bench.contract.record import PairLogps
from dpo_bench.contract.requirements import NEEDS
from dpo_bench.testing.example_pairs import extreme_pairs, ordinary_pairs, supplied

POLICY_FIELDS = ("policy_chosen", "policy_rejected")
SHARED_FIELDS = ("policy_chosen_shared", "policy_rejected_shared")
KL_FIELDS = ("chosen_kl", "rejected_kl")
REFERENCE_FIELDS = (
    "reference_chosen",
    "reference_rejected",
    "reference_chosen_shared",
    "reference_rejected_shared",
)
COUNTS = ("chosen_tokens", "rejected_tokens")
STEP = 1e-5  # nats, of the finite differences
TOLERANCE = 1e-6  # of the finite differences, relative; theirs is the error, not the loss's


@dataclass(frozen=True)
class Subject:
    """A loss at fixed hyperparameters, as the checks see it."""

    loss: Loss
    hyperparameters: Mapping[str, float]
    expected: float | None
    batch_coupled: bool

    def pairs(self, dtype: torch.dtype = torch.float64) -> PairLogps:
        """Ordinary pairs with what the loss needs."""
        return supplied(ordinary_pairs(dtype), self.loss.needs)

    def extremes(self, dtype: torch.dtype) -> PairLogps:
        """Extreme pairs with what the loss needs."""
        return supplied(extreme_pairs(dtype), self.loss.needs)

    def values(self, logps: PairLogps) -> Tensor:
        """Loss of each pair, without a gradient."""
        with torch.no_grad():
            return self.loss(logps, **self.hyperparameters)

    def gradients(self, logps: PairLogps) -> dict[str, Tensor]:
        """Gradient of the weighted sum of the losses with respect to each policy field."""
        leaves = self.leaves(logps)
        values = self.loss(replace(logps, **leaves), **self.hyperparameters)
        found = torch.autograd.grad(
            (values * _weights(values)).sum(), list(leaves.values()), materialize_grads=True
        )
        return dict(zip(leaves, found, strict=True))

    def leaves(self, logps: PairLogps) -> dict[str, Tensor]:
        """Copies of the fields that carry a gradient, as leaves of one."""
        names = (*POLICY_FIELDS, *SHARED_FIELDS, *KL_FIELDS)
        given = {name: getattr(logps, name) for name in names}
        return {
            name: field.clone().requires_grad_()
            for name, field in given.items()
            if field is not None
        }


Check = Callable[[Subject], Iterator[str]]


def _weights(values: Tensor) -> Tensor:
    """A different weight per pair, so that errors of two pairs cannot cancel in a sum."""
    return torch.linspace(0.5, 1.5, len(values), dtype=values.dtype)


def _map(logps: PairLogps, change: Callable[[Tensor], Tensor]) -> PairLogps:
    known = {f.name: getattr(logps, f.name) for f in fields(logps)}
    return replace(logps, **{n: change(field) for n, field in known.items() if field is not None})


def _describe(logps: PairLogps, pair: int) -> str:
    return (
        f"pair {pair} (log-ratios {logps.chosen_logratio[pair].item():g} and "
        f"{logps.rejected_logratio[pair].item():g} nats, "
        f"{int(logps.chosen_tokens[pair])} and {int(logps.rejected_tokens[pair])} tokens)"
    )


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-9, atol=1e-12, equal_nan=True)


def _needs(subject: Subject) -> Iterator[str]:
    """Every field beyond the first six that it reads is declared in ``needs``, and no other."""
    for name in NEEDS:
        if name not in subject.loss.needs and _reads(subject, name):
            yield f"it reads {' or '.join(NEEDS[name].fields)} without needs=({name!r},)"
    for name in subject.loss.needs:
        pairs = subject.pairs()
        moved = {field: getattr(pairs, field) * 1.3 + 0.4 for field in NEEDS[name].fields}
        if torch.equal(subject.values(pairs), subject.values(replace(pairs, **moved))):
            yield f"it declares needs=({name!r},) but never reads it"


def _reads(subject: Subject, need: str) -> bool:
    """Whether a loss works, or works otherwise, when it is given what it does not declare."""
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(0)
            given = subject.values(supplied(subject.pairs(), (*subject.loss.needs, need)))
        except Exception:
            return False  # it fails with the field as well: another check says how
        try:
            torch.manual_seed(0)
            without = subject.values(subject.pairs())
        except Exception:
            return True
    return isinstance(without, Tensor) and not torch.equal(given, without)


def _shape(subject: Subject) -> Iterator[str]:
    """A tensor with one value per pair, also for a single pair."""
    for pairs in (subject.pairs(), _map(subject.pairs(), lambda field: field[:1])):
        values: Any = subject.values(pairs)
        wanted = list(pairs.policy_chosen.shape)
        if not isinstance(values, Tensor):
            yield f"returned a {type(values).__name__}, not a tensor of shape [pair]"
        elif list(values.shape) != wanted:
            yield f"returned shape {list(values.shape)} for {wanted[0]} pairs, not {wanted}"


def _dtype(subject: Subject) -> Iterator[str]:
    """The dtype of the log-probs, whether counts are integers or floating-point numbers."""
    for dtype in (torch.float32, torch.float64):
        pairs = subject.pairs(dtype)
        counts = {name: getattr(pairs, name).to(dtype) for name in COUNTS}
        for given in (pairs, replace(pairs, **counts)):
            values = subject.values(given)
            if values.dtype != dtype:
                yield (
                    f"log-probs in {dtype} and counts in {given.chosen_tokens.dtype} "
                    f"gave a loss in {values.dtype}"
                )


def _finite(subject: Subject) -> Iterator[str]:
    """Finite values and gradients at log-ratios of ± 1e4, probability 1 and 10,000 tokens."""
    for dtype in (torch.float64, torch.float32):
        far = subject.extremes(dtype)
        for pairs in (subject.pairs(dtype), far, far.at_reference()):
            results = {"value": subject.values(pairs)} | subject.gradients(pairs)
            for name, result in results.items():
                if bad := (~result.isfinite()).nonzero().flatten().tolist():
                    what = name if name == "value" else f"gradient with respect to {name}"
                    yield f"{what} is {result[bad[0]]:g} at {_describe(pairs, bad[0])} in {dtype}"


def _gradient(subject: Subject) -> Iterator[str]:
    """Autograd agrees with finite differences in fp64; at a kink, with either side's slope.

    Only a KL may be detached.
    """
    for pairs in (subject.pairs(), subject.pairs().at_reference()):
        for name, gradient in subject.gradients(pairs).items():
            if name in KL_FIELDS and not gradient.any():
                continue
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
        values = subject.values(replace(pairs, **{name: moved}))
        return float((values * _weights(values)).sum())

    below, here, above = total(-STEP), total(0.0), total(STEP)
    return (here - below) / STEP, (above - here) / STEP


def _flow(subject: Subject) -> Iterator[str]:
    """The gradient reaches the policy's log-probs and nothing else."""
    pairs = subject.pairs()
    leaves = subject.leaves(pairs)
    values = subject.loss(replace(pairs, **leaves), **subject.hyperparameters)
    if not values.requires_grad:
        yield "the loss is cut off from the policy: no gradient flows"
        return
    if any(all(leaf is not known for known in leaves.values()) for leaf in _leaves(values)):
        yield "a gradient flows into a tensor that is no log-prob of the policy"
    if not any(gradient.any() for gradient in subject.gradients(pairs).values()):
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
    values = subject.values(subject.pairs().at_reference())
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
    """Where the policy equals the reference, pairs that are alike in the rest have the same loss.

    The rest: lengths, the data's margin, the policy's confidence.
    """
    if not subject.loss.needs_reference:
        return
    pairs = subject.pairs().at_reference()
    rest = (*COUNTS, "preference_margin", "chosen_confidence", "rejected_confidence")
    known = {name: field for name in rest if (field := getattr(pairs, name)) is not None}
    same = {name: field[:1].expand_as(field) for name, field in known.items()}
    values = subject.values(replace(pairs, **same))
    if not _close(values, values[:1].expand_as(values)):
        yield (
            "where the policy equals the reference, alike pairs have different losses"
            f": {values.min():g} to {values.max():g}"
        )


def _permutation(subject: Subject) -> Iterator[str]:
    """Pairs in another order have their losses in that order."""
    pairs = subject.pairs()
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
    pairs = subject.pairs()
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
        first = subject.values(subject.pairs())
        torch.manual_seed(1)
        second = subject.values(subject.pairs())
    if not torch.equal(first, second):
        yield f"two calls with the same input differ, by up to {(first - second).abs().max():g}"


def _purity(subject: Subject) -> Iterator[str]:
    """The log-probs and counts that it is given stay as they were."""
    given, kept = subject.pairs(), subject.pairs()
    subject.values(given)
    for field in fields(given):
        tensor = getattr(given, field.name)
        if tensor is None:
            continue
        if not torch.equal(tensor, getattr(kept, field.name)) or tensor.requires_grad:
            yield f"it changes {field.name} of its input in place"


def _reference(subject: Subject) -> Iterator[str]:
    """A loss that is declared reference-free does not move with the reference."""
    if subject.loss.needs_reference:
        return
    pairs = subject.pairs()
    before = subject.values(pairs)
    for name in REFERENCE_FIELDS:
        if (field := getattr(pairs, name)) is None:
            continue
        moved = replace(pairs, **{name: field * 1.7 - 3})
        if not torch.equal(before, subject.values(moved)):
            yield f"it declares needs_reference=False but moves with {name}"


def _log_ratios(subject: Subject) -> Iterator[str]:
    """A loss that is not declared to read log-probs sees nothing but their ratios.

    Policy and reference move together, each pair by its own amount, the two responses by different
    ones: no log-ratio changes.
    """
    if not subject.loss.is_of_log_ratios:
        return
    pairs = subject.pairs()
    count = len(pairs.policy_chosen)
    for side, first in (("chosen", -2.0), ("rejected", 1.0)):
        shift = torch.linspace(first, first + 1, count, dtype=pairs.policy_chosen.dtype)
        names = f"policy_{side}", f"reference_{side}"
        moved = replace(pairs, **{name: getattr(pairs, name) + shift for name in names})
        if not _close(subject.values(pairs), subject.values(moved)):
            yield (
                f"it moves where policy and reference make the {side} response more likely alike:"
                " it reads log-probs besides log-ratios; say reads_log_probs=True"
            )


def _continued(subject: Subject) -> Iterator[str]:
    """Where its formula is said to be continued is true or false for each pair."""
    zone = subject.loss.continued
    if zone is None:
        return
    for pairs in (subject.pairs(), subject.extremes(torch.float32)):
        found: Any = zone(pairs, **subject.hyperparameters)
        count = len(pairs.policy_chosen)
        if not isinstance(found, Tensor) or found.dtype != torch.bool:
            yield f"where it is continued comes as {_kind(found)}, not as a tensor of truth values"
        elif list(found.shape) != [count]:
            yield f"where it is continued has shape {list(found.shape)} for {count} pairs"


def _kind(found: object) -> str:
    return str(found.dtype) if isinstance(found, Tensor) else type(found).__name__


CHECKS: Mapping[str, Check] = {
    "needs": _needs,
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
    "log_ratios": _log_ratios,
    "continued": _continued,
}
"""Every check by name; the first line of its docstring says what it demands."""
