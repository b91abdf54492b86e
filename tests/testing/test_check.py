"""Each check of the contract catches a loss that is wrong in that way, and only in that way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench import PairLogps, get_loss, list_losses, register
from dpo_bench.contract import Positive
from dpo_bench.errors import ConfigurationError
from dpo_bench.testing.check import ContractError, check_loss
from dpo_bench.testing.checks import CHECKS
from dpo_bench.testing.example_pairs import EXTREME, extreme_pairs, ordinary_pairs
from tests.registry import restored_registry


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with restored_registry():
        yield


def enter(
    function: Callable[..., Any], *, needs_reference: bool = True, needs: tuple[str, ...] = ()
) -> str:
    """Register a function of this file, as a plug-in's author would."""
    function.__doc__ = "A loss."
    register(
        function.__name__,
        paper="none",
        normalization="sum",
        grid=(0.1, 1.0),
        needs_reference=needs_reference,
        needs=needs,
    )(function)
    return function.__name__


def sound(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return -logsigmoid(beta * logps.margin)


def mean_of_batch(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return sound(logps, beta).mean()


def plain_list(logps: PairLogps, beta: Positive = 0.1) -> list[float]:
    return sound(logps, beta).tolist()


def always_double(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return sound(logps, beta).double()


def rounded_to_single(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return sound(logps, beta).float()


def naive_logarithm(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return -torch.log(torch.sigmoid(beta * logps.margin))


def overflowing(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return torch.exp(-beta * logps.margin)


def finite_value_with_nan_gradient(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    far = logps.margin < -1000
    return torch.where(far, -beta * logps.margin, torch.log1p(torch.exp(-beta * logps.margin)))


def half_detached(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    ratio = logps.policy_rejected.detach() - logps.reference_rejected
    return -logsigmoid(beta * (logps.chosen_logratio - ratio))


class _DoubledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, margin: Tensor) -> Tensor:
        return margin.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def doubled_gradient(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    doubled: Tensor = _DoubledGradient.apply(logps.margin)  # type: ignore[no-untyped-call]
    return -logsigmoid(beta * doubled)


def zero_gradient_at_the_start(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return -logsigmoid(beta * torch.sign(logps.margin) * logps.margin.abs())


def cut_off(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return sound(logps, beta).detach()


_knob = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)


def learns_a_parameter(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return sound(logps, beta) + 0 * _knob.to(logps.margin.dtype)


def constant(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return torch.zeros_like(logps.margin) * logps.margin + beta


def moves_with_the_reference_at_the_start(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return -logsigmoid(beta * (logps.policy_chosen - logps.policy_rejected))


def infinite_at_the_start(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return beta / logps.margin


def weighted_by_place(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    places = torch.arange(len(logps.margin), dtype=logps.margin.dtype)
    return (1 + places) * sound(logps, beta)


def centered(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return -logsigmoid(beta * (logps.margin - logps.margin.mean()))


def noisy(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return sound(logps, beta) + 1e-9 * torch.rand_like(logps.margin)


def meddling(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    values = sound(logps, beta)
    logps.reference_chosen.add_(1.0)
    return values


def asks_for_gradients(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    logps.reference_rejected.requires_grad_()
    return sound(logps, beta)


def likes_likely_responses(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return sound(logps, beta) - 0.1 * logps.policy_chosen


def failing(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    raise KeyError("sum")


WRONG = [
    (mean_of_batch, "shape", r"shape \[\] for 7 pairs, not \[7\]"),
    (plain_list, "shape", "a list, not a tensor"),
    (failing, "shape", "raised KeyError"),
    (always_double, "dtype", "log-probs in torch.float32 .* gave a loss in torch.float64"),
    (rounded_to_single, "dtype", "log-probs in torch.float64 .* gave a loss in torch.float32"),
    (naive_logarithm, "finite", r"value is inf at pair \d+ \(log-ratios -10000 and "),
    (overflowing, "finite", "value is inf"),
    (finite_value_with_nan_gradient, "finite", "gradient with respect to policy_chosen is nan"),
    (half_detached, "gradient", "with respect to policy_rejected at pair 0 .* autograd says 0,"),
    (doubled_gradient, "gradient", "with respect to policy_chosen at pair 0"),
    (zero_gradient_at_the_start, "gradient", "log-ratios 0.213 and 0.213 nats"),
    (cut_off, "flow", "no gradient flows"),
    (learns_a_parameter, "flow", "into a tensor that is no log-prob of the policy"),
    (constant, "flow", "nothing would be learnt"),
    (infinite_at_the_start, "start", "where the policy equals the reference it is .*inf"),
    (moves_with_the_reference_at_the_start, "constant_start", "have different losses"),
    (weighted_by_place, "permutation", "put into another order"),
    (centered, "independence", r"pair 0 \(log-ratios 1.37 and -0.59 nats, 12 and 12 tokens\)"),
    (likes_likely_responses, "log_ratios", "say reads_log_probs=True"),
    (noisy, "determinism", "two calls with the same input differ"),
    (meddling, "purity", "changes reference_chosen"),
    (asks_for_gradients, "purity", "changes reference_rejected"),
]


@pytest.mark.parametrize(("function", "check", "message"), WRONG)
def test_wrong_loss_is_caught(function: Callable[..., Any], check: str, message: str) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        check_loss(enter(function))
    assert check in caught.value.failures


@pytest.mark.parametrize(
    "function",
    [doubled_gradient, always_double, naive_logarithm, centered, learns_a_parameter],
)
def test_other_checks_stay_silent(function: Callable[..., Any]) -> None:
    with pytest.raises(ContractError) as caught:
        check_loss(enter(function))
    check_loss(function.__name__, skip=caught.value.failures)
    assert len(caught.value.failures) == 1


def test_reference_free_loss_that_reads_the_reference_is_caught() -> None:
    with pytest.raises(ContractError, match="needs_reference=False but moves with reference_") as e:
        check_loss(enter(sound, needs_reference=False))
    assert set(e.value.failures) == {"reference"}


def secretly_graded(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return -logsigmoid(beta * logps.margin - logps.preference_margin)  # type: ignore[operator]


def graded_if_it_can(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    offset = 0.0 if logps.preference_margin is None else logps.preference_margin
    return -logsigmoid(beta * logps.margin - offset)


@pytest.mark.parametrize(
    ("zone", "message"),
    [
        (lambda logps, beta: (-beta * logps.margin > 20).any(), r"has shape \[\] for 7 pairs"),
        (lambda logps, beta: -beta * logps.margin - 20, "comes as torch.float64, not as a tensor"),
        (lambda logps, beta: [False] * 7, "comes as list, not as a tensor of truth values"),
        (lambda logps: logps.margin > 20, "raised TypeError"),
    ],
)
def test_a_zone_that_is_no_truth_value_per_pair_is_caught(zone: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        check_loss(replace(get_loss(enter(sound)), continued=zone))
    assert set(caught.value.failures) == {"continued"}


@pytest.mark.parametrize("function", [secretly_graded, graded_if_it_can])
def test_need_that_is_not_declared_is_caught(function: Callable[..., Any]) -> None:
    with pytest.raises(ContractError, match=r"without needs=\('preference_margin',\)") as caught:
        check_loss(enter(function))
    assert set(caught.value.failures) == {"needs"}


def test_need_that_is_declared_in_vain_is_caught() -> None:
    with pytest.raises(ContractError, match=r"needs=\('confidence',\) but never reads") as caught:
        check_loss(enter(sound, needs=("confidence",)))
    assert set(caught.value.failures) == {"needs"}


def test_declared_need_passes() -> None:
    check_loss(enter(secretly_graded, needs=("preference_margin",)))


def test_a_loss_may_read_log_probs_when_it_says_so() -> None:
    loss = get_loss(enter(likes_likely_responses))
    assert loss.is_of_log_ratios
    declared = replace(loss, reads_log_probs=True)
    assert not declared.is_of_log_ratios
    check_loss(declared, skip=("constant_start",))


def test_a_loss_cannot_depart_from_a_check_that_does_not_exist() -> None:
    loss = replace(get_loss(enter(sound)), departs_from=("gradent",))
    with pytest.raises(ConfigurationError, match=r"unknown check 'gradent' \(did you mean 'grad"):
        check_loss(loss)


def test_every_check_is_proven_by_a_wrong_loss() -> None:
    assert {check for _, check, _ in WRONG} | {"needs", "reference", "continued"} == set(CHECKS)


def test_sound_loss_passes() -> None:
    check_loss(enter(sound), expected=0.6931471805599453)


def test_unexpected_value_at_the_reference_is_caught() -> None:
    with pytest.raises(ContractError, match=r"it is 0\.693147, not the expected 0\.7") as caught:
        check_loss(enter(sound), expected=0.7)
    assert set(caught.value.failures) == {"start"}


def test_batch_coupled_loss_passes_when_it_says_so() -> None:
    check_loss(enter(centered), batch_coupled=True)


def test_batch_coupled_loss_must_not_depend_on_the_order() -> None:
    with pytest.raises(ContractError, match="another order"):
        check_loss(enter(weighted_by_place), batch_coupled=True)


def breaks_at_the_grids_end(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    return sound(logps, beta) if beta < 1 else overflowing(logps, beta)


def test_both_ends_of_the_grid_are_checked() -> None:
    with pytest.raises(ContractError, match=r"\(beta = 1\)"):
        check_loss(enter(breaks_at_the_grids_end))


def test_given_hyperparameters_are_the_only_ones_checked() -> None:
    check_loss(enter(breaks_at_the_grids_end), hyperparameters={"beta": 0.5})


def test_kink_takes_either_slope() -> None:
    def kinked(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
        return beta * torch.relu(-logps.margin)

    check_loss(enter(kinked))


def test_all_failures_are_listed_with_the_place_of_the_loss() -> None:
    def doubly_wrong(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
        return centered(logps, beta).double()

    with pytest.raises(ContractError) as caught:
        check_loss(enter(doubly_wrong))
    assert set(caught.value.failures) == {"dtype", "independence"}
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("doubly_wrong (")
    assert f"{__file__}:" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == ["- dtype", "- independence"]


def test_a_loss_may_say_what_it_departs_from() -> None:
    lenient = replace(get_loss(enter(doubled_gradient)), departs_from=("gradient",))
    check_loss(lenient)
    with pytest.raises(ContractError, match="- gradient: "):
        check_loss(replace(lenient, departs_from=("start",)))


def test_unknown_loss_check_and_hyperparameter_are_errors() -> None:
    with pytest.raises(ConfigurationError, match="unknown loss 'soud'"):
        check_loss("soud")
    with pytest.raises(ValueError, match=r"no such check: \['gradients'\]"):
        check_loss("dpo", skip=["gradients"])
    with pytest.raises(ConfigurationError, match="has no hyperparameter 'bata'"):
        check_loss("dpo", hyperparameters={"bata": 1.0})


def test_loss_object_will_do_instead_of_its_name() -> None:
    check_loss(get_loss(list_losses()[0]))


def test_extreme_pairs_reach_both_ends() -> None:
    pairs = extreme_pairs()
    for ratio in (pairs.chosen_logratio, pairs.rejected_logratio):
        assert set(ratio.tolist()) == {-EXTREME, 0.0, EXTREME}
    assert pairs.policy_chosen.max() == 0
    assert (pairs.policy_chosen <= 0).all()
    assert (pairs.reference_rejected <= 0).all()
    assert pairs.chosen_tokens.max() == 10_000


def test_ordinary_pairs_are_log_probabilities() -> None:
    pairs = ordinary_pairs(torch.float32)
    for field in (pairs.policy_chosen, pairs.policy_rejected, pairs.reference_chosen):
        assert field.dtype == torch.float32
        assert (field < 0).all()
    assert not pairs.chosen_tokens.is_floating_point()
