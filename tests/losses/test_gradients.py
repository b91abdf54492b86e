"""The gradients that the papers state, in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, sigmoid

from dpo_bench import PairLogps, get_loss
from dpo_bench.catalogue.cards import shipped_losses
from dpo_bench.testing.example_pairs import ordinary_pairs, supplied
from tests.losses.pairs import gradients, margins

OfMargin = Callable[[Tensor], Tensor]
"""Derivative of a loss in the margin, given the margin (nats)."""

OfPairs = Callable[[PairLogps], tuple[Tensor, Tensor]]
"""Derivatives in the policy's log-probs of chosen and rejected."""


def slope(z: Tensor) -> Tensor:
    """Derivative of the sigmoid."""
    return sigmoid(z) * sigmoid(-z)


IN_THE_MARGIN: list[tuple[str, dict[str, float], OfMargin]] = [
    ("dpo", {"beta": 0.3}, lambda d: -0.3 * sigmoid(-0.3 * d)),
    ("cdpo", {"beta": 0.3, "label_smoothing": 0.2}, lambda d: 0.3 * (sigmoid(0.3 * d) - 0.8)),
    (
        "robust_dpo",
        {"beta": 0.3, "label_smoothing": 0.2},
        lambda d: -0.3 * (0.8 * sigmoid(-0.3 * d) + 0.2 * sigmoid(0.3 * d)) / 0.6,
    ),
    ("hinge", {"beta": 0.3}, lambda d: torch.where(d < 1 / 0.3, -0.3, 0.0).double()),
    ("ipo_sum", {"beta": 0.3}, lambda d: 2 * (d - 1 / 0.6)),
    (
        "exo",
        {"beta": 0.3, "label_smoothing": 0.01},
        lambda d: 0.3 * slope(0.3 * d) * (0.3 * d - math.log(99)),
    ),
    ("gpo_exp", {"beta": 0.3}, lambda d: -0.3 * torch.exp(-0.3 * d)),
    ("gpo_squared", {"beta": 0.3}, lambda d: 0.6 * (0.3 * d - 1)),
    ("gpo_truncated_quadratic", {"beta": 0.3}, lambda d: -0.6 * (1 - 0.3 * d).clamp(min=0)),
    ("gpo_savage", {"beta": 0.3}, lambda d: -0.6 * sigmoid(0.3 * d) * sigmoid(-0.3 * d) ** 2),
    (
        "discopop",
        {"beta": 0.3, "tau": 0.5},
        lambda d: (
            0.3
            * (
                2 * slope(0.6 * d) * (torch.exp(-0.3 * d) + sigmoid(0.3 * d).log())
                - sigmoid(-0.6 * d) * sigmoid(-0.3 * d)
                - sigmoid(0.6 * d) * torch.exp(-0.3 * d)
            )
        ),
    ),
]


@pytest.mark.parametrize(("name", "hyperparameters", "statement"), IN_THE_MARGIN)
def test_gradient_in_the_margin(
    name: str, hyperparameters: dict[str, float], statement: OfMargin
) -> None:
    logps = ordinary_pairs()
    chosen, rejected = gradients(name, logps, **hyperparameters)
    torch.testing.assert_close(chosen, statement(logps.margin))
    torch.testing.assert_close(rejected, -statement(logps.margin))


def ipo(x: PairLogps) -> tuple[Tensor, Tensor]:
    distance = 2 * (x.margin_per_token - 1 / 0.6)
    return distance / x.chosen_tokens, -distance / x.rejected_tokens


def dpo_norm(x: PairLogps) -> tuple[Tensor, Tensor]:
    weight = 5 * sigmoid(-5 * x.margin_per_token)
    return -weight / x.chosen_tokens, weight / x.rejected_tokens


def length_dpo(x: PairLogps) -> tuple[Tensor, Tensor]:
    longer = (x.chosen_tokens - x.rejected_tokens).double()
    weight = 0.3 * sigmoid(-0.3 * x.margin - 0.05 * longer)
    return -weight, weight


def nca(x: PairLogps) -> tuple[Tensor, Tensor]:
    return (
        0.3 * (1.5 * sigmoid(0.3 * x.chosen_logratio) - 1),
        0.15 * sigmoid(0.3 * x.rejected_logratio),
    )


def sppo(x: PairLogps) -> tuple[Tensor, Tensor]:
    return 2 * (x.chosen_logratio - 1 / 0.6), 2 * (x.rejected_logratio + 1 / 0.6)


def cal_dpo(x: PairLogps) -> tuple[Tensor, Tensor]:
    chosen, rejected = sppo(x)
    return chosen - sigmoid(-x.margin), rejected + sigmoid(-x.margin)


def apo_zero(x: PairLogps) -> tuple[Tensor, Tensor]:
    return -0.3 * slope(0.3 * x.chosen_logratio), 0.3 * slope(0.3 * x.rejected_logratio)


def apo_down(x: PairLogps) -> tuple[Tensor, Tensor]:
    rejected = 0.3 * slope(0.3 * x.margin)
    return 0.3 * slope(0.3 * x.chosen_logratio) - rejected, rejected


def dpop(x: PairLogps) -> tuple[Tensor, Tensor]:
    slipped = x.chosen_logratio < 0
    fine = 50 * torch.where(slipped, -x.chosen_logratio, 0.0)
    weight = 0.3 * sigmoid(-0.3 * (x.margin - fine))
    return -weight * torch.where(slipped, 51.0, 1.0), weight


def chi_po(x: PairLogps) -> tuple[Tensor, Tensor]:
    links = [torch.exp(u) + u for u in (x.chosen_logratio, x.rejected_logratio)]
    weight = 0.3 * sigmoid(-0.3 * (links[0] - links[1]))
    return (
        -weight * (1 + torch.exp(x.chosen_logratio)),
        weight * (1 + torch.exp(x.rejected_logratio)),
    )


def per_token(x: PairLogps) -> tuple[Tensor, Tensor]:
    return x.policy_chosen / x.chosen_tokens, x.policy_rejected / x.rejected_tokens


def simpo(x: PairLogps) -> tuple[Tensor, Tensor]:
    chosen, rejected = per_token(x)
    weight = 2 * sigmoid(1 - 2 * (chosen - rejected))
    return -weight / x.chosen_tokens, weight / x.rejected_tokens


def alpha_po(x: PairLogps) -> tuple[Tensor, Tensor]:
    chosen, rejected = (torch.exp(-0.25 * p) for p in per_token(x))
    reward_margin = 2 * ((1 - chosen) - (1 - rejected)) / 0.25
    weight = 2 * sigmoid(1 - reward_margin)
    return -weight * chosen / x.chosen_tokens, weight * rejected / x.rejected_tokens


def cpo(x: PairLogps) -> tuple[Tensor, Tensor]:
    weight = 0.3 * sigmoid(-0.3 * (x.policy_chosen - x.policy_rejected))
    return -weight - 2 / x.chosen_tokens, weight


def orpo(x: PairLogps) -> tuple[Tensor, Tensor]:
    chosen, rejected = (torch.exp(p) for p in per_token(x))
    odds_ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    weight = 0.3 / (1 + odds_ratio)  # the paper's delta(d)
    return (
        -(1 + weight / (1 - chosen)) / x.chosen_tokens,
        weight / (1 - rejected) / x.rejected_tokens,
    )


def slic(x: PairLogps) -> tuple[Tensor, Tensor]:
    lost = (x.policy_chosen - x.policy_rejected < 3).double()
    return -lost - 0.5 / x.chosen_tokens, lost


def rrhf(x: PairLogps) -> tuple[Tensor, Tensor]:
    chosen, rejected = per_token(x)
    lost = (rejected > chosen).double()
    return -(lost + 0.5) / x.chosen_tokens, lost / x.rejected_tokens


def sft(x: PairLogps) -> tuple[Tensor, Tensor]:
    return -1 / x.chosen_tokens.double(), torch.zeros_like(x.policy_rejected)


def unlikelihood(x: PairLogps) -> tuple[Tensor, Tensor]:
    return torch.full_like(x.policy_chosen, -1), torch.full_like(x.policy_rejected, 0.3)


def simper(x: PairLogps) -> tuple[Tensor, Tensor]:
    chosen, rejected = (torch.exp(p) for p in per_token(x))
    return -chosen / x.chosen_tokens, rejected / x.rejected_tokens


def dpo_shift(x: PairLogps) -> tuple[Tensor, Tensor]:
    weight = 0.3 * sigmoid(-0.3 * (x.chosen_logratio - 0.9 * x.rejected_logratio))
    return -weight, 0.9 * weight


def odpo(x: PairLogps) -> tuple[Tensor, Tensor]:
    weight = 0.3 * sigmoid(2 * given(x.preference_margin) - 0.3 * x.margin)
    return -weight, weight


def reward_distillation(x: PairLogps) -> tuple[Tensor, Tensor]:
    distance = 0.6 * (0.3 * x.margin - given(x.preference_margin))
    return distance, -distance


def ld_dpo(x: PairLogps) -> tuple[Tensor, Tensor]:
    shared = given(x.policy_chosen_shared) - given(x.reference_chosen_shared)
    shared = shared - given(x.policy_rejected_shared) + given(x.reference_rejected_shared)
    weight = 0.3 * sigmoid(-0.3 * (0.4 * x.margin + 0.6 * shared))
    return -0.4 * weight, 0.4 * weight  # in the whole sum at a fixed shared part


def tdpo1(x: PairLogps) -> tuple[Tensor, Tensor]:
    weight = 0.3 * sigmoid(-0.3 * (x.margin - given(x.rejected_kl) + given(x.chosen_kl)))
    return -weight, weight


def tdpo2(x: PairLogps) -> tuple[Tensor, Tensor]:
    correction = 0.7 * (given(x.rejected_kl) - given(x.chosen_kl))
    weight = 0.3 * sigmoid(-0.3 * (x.margin - correction))
    return -weight, weight


def bco(x: PairLogps) -> tuple[Tensor, Tensor]:
    shift = 0.3 * given(x.mean_logratio)
    chosen, rejected = 0.3 * x.chosen_logratio, 0.3 * x.rejected_logratio
    return -0.3 * sigmoid(shift - chosen), 0.3 * sigmoid(rejected - shift)


def kto(x: PairLogps) -> tuple[Tensor, Tensor]:
    point = given(x.mismatched_logratio).mean().clamp(min=0)
    chosen = -0.3 * slope(0.3 * (x.chosen_logratio - point))
    return chosen, 2 * 0.3 * slope(0.3 * (point - x.rejected_logratio))


def sorted_slopes(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Slope in each entry of two columns that are matched by rank: sigmoid of minus z, times b."""
    order, other = left.argsort(), right.argsort()
    weight = 0.3 * sigmoid(-0.3 * (left[order] - right[other]))
    first, second = torch.empty_like(left), torch.empty_like(right)
    first[order], second[other] = -weight, weight
    return first, second


def aot(x: PairLogps) -> tuple[Tensor, Tensor]:
    policy, reference = (
        x.policy_chosen - x.policy_rejected,
        x.reference_chosen - x.reference_rejected,
    )
    of_margin, _ = sorted_slopes(policy, reference)
    return of_margin, -of_margin


def aot_unpaired(x: PairLogps) -> tuple[Tensor, Tensor]:
    return sorted_slopes(x.chosen_logratio, x.rejected_logratio)


def given(field: Tensor | None) -> Tensor:
    assert field is not None
    return field


IN_BOTH: list[tuple[OfPairs, dict[str, float]]] = [
    (ipo, {"beta": 0.3}),
    (dpo_norm, {"beta": 5}),
    (length_dpo, {"beta": 0.3, "alpha": 0.05}),
    (nca, {"beta": 0.3}),
    (sppo, {"beta": 0.3}),
    (cal_dpo, {"beta": 0.3}),
    (apo_zero, {"beta": 0.3}),
    (apo_down, {"beta": 0.3}),
    (dpop, {"beta": 0.3, "lam": 50}),
    (chi_po, {"beta": 0.3}),
    (simpo, {"beta": 2, "gamma_beta_ratio": 0.5}),
    (alpha_po, {"beta": 2, "alpha": 0.25, "gamma_beta_ratio": 0.5}),
    (cpo, {"beta": 0.3, "alpha": 2}),
    (orpo, {"lam": 0.3}),
    (slic, {"delta": 3, "lam": 0.5}),
    (rrhf, {"lam": 0.5}),
    (sft, {}),
    (unlikelihood, {"alpha": 0.3}),
    (simper, {}),
    (dpo_shift, {"beta": 0.3, "lam": 0.9}),
    (odpo, {"beta": 0.3, "alpha": 2}),  # with the logarithm: in test_values
    (reward_distillation, {"beta": 0.3}),
    (ld_dpo, {"beta": 0.3, "alpha": 0.4}),
    (tdpo1, {"beta": 0.3}),
    (tdpo2, {"beta": 0.3, "alpha": 0.7}),
    (bco, {"beta": 0.3}),
    (kto, {"beta": 0.3, "lam": 2}),
    (aot, {"beta": 0.3}),
    (aot_unpaired, {"beta": 0.3}),
]


@pytest.mark.parametrize(("statement", "hyperparameters"), IN_BOTH)
def test_gradient_in_both_responses(statement: OfPairs, hyperparameters: dict[str, float]) -> None:
    logps = supplied(ordinary_pairs())
    found = gradients(statement.__name__, logps, **hyperparameters)
    for gradient, wanted in zip(found, statement(logps), strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_every_loss_has_its_gradient_stated() -> None:
    stated = [name for name, _, _ in IN_THE_MARGIN] + [f.__name__ for f, _ in IN_BOTH]
    assert sorted(stated) == shipped_losses()


@pytest.mark.parametrize(("name", "stopped"), [("tdpo1", False), ("tdpo2", True)])
def test_gradient_in_the_sequential_kls(name: str, stopped: bool) -> None:
    """Only TDPO2 cuts the chosen response's KL off."""
    logps = supplied(ordinary_pairs())
    chosen, rejected = (
        given(k).clone().requires_grad_() for k in (logps.chosen_kl, logps.rejected_kl)
    )
    moved = replace(logps, chosen_kl=chosen, rejected_kl=rejected)
    total = get_loss(name)(moved, beta=0.3).sum()
    of_chosen, of_rejected = torch.autograd.grad(total, (chosen, rejected), materialize_grads=True)
    weight = 0.5 if stopped else 1.0
    margin = logps.margin - weight * (rejected.detach() - chosen.detach())
    wanted = weight * 0.3 * sigmoid(-0.3 * margin)
    torch.testing.assert_close(of_rejected, wanted)
    torch.testing.assert_close(of_chosen, torch.zeros_like(wanted) if stopped else -wanted)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "margin"),
    [
        ("cdpo", {"beta": 0.3, "label_smoothing": 0.2}, math.log(4) / 0.3),
        ("exo", {"beta": 0.3, "label_smoothing": 0.2}, math.log(4) / 0.3),
        (  # the authors' label, of logarithm -10
            "exo",
            {"beta": 0.3, "label_smoothing": math.exp(-10), "label_normalization": 0},
            10 / 0.3,
        ),
        ("ipo_sum", {"beta": 0.2}, 2.5),
        ("ipo", {"beta": 0.2}, 2.5),
        ("gpo_squared", {"beta": 0.4}, 2.5),
        ("nca", {"beta": 0.3}, math.log(2) / 0.3),
        ("sppo", {"beta": 0.2}, 2.5),
    ],
)
def test_gradient_vanishes_at_the_fixed_point(
    name: str, hyperparameters: dict[str, float], margin: float
) -> None:
    below, at, above = (
        gradients(name, margins(margin + shift), **hyperparameters)[0] for shift in (-1, 0, 1)
    )
    assert below < 0 < above
    assert at.abs() < 1e-15


@pytest.mark.parametrize(
    ("name", "hyperparameters", "won"),
    [
        ("hinge", {"beta": 0.1}, 10.5),
        ("gpo_truncated_quadratic", {"beta": 0.1}, 10.5),
        ("slic", {"delta": 2, "lam": 0}, 2.5),
        ("rrhf", {"lam": 0}, 0.5),
    ],
)
def test_pair_that_is_won_no_longer_counts(
    name: str, hyperparameters: dict[str, float], won: float
) -> None:
    pairs = margins(-won, won, 1e4)
    chosen, rejected = gradients(name, pairs, **hyperparameters)
    assert chosen[0] < 0 < rejected[0]
    assert not chosen[1:].any()
    assert not rejected[1:].any()
    assert not get_loss(name)(pairs, **hyperparameters)[1:].any()


@pytest.mark.parametrize("name", ["exo", "apo_zero", "gpo_savage"])
def test_gradient_fades_on_both_sides(name: str) -> None:
    far_lost, lost, far_won = gradients(name, margins(-200, -5, 200), beta=0.3)[0].abs()
    assert far_lost < 1e-6 * lost
    assert far_won < 1e-6 * lost


def test_discopop_points_the_wrong_way_at_the_reference_and_rests_below_it() -> None:
    at_reference, valley, lost, won = gradients(
        "discopop", margins(0, -2.3714 * 0.05 / 0.3, -3, 1), beta=0.3, tau=0.05
    )[0]
    assert at_reference > 0
    assert valley.abs() < 1e-4
    assert lost < 0
    assert won < 0


def test_chi_po_starts_twice_as_steep_as_dpo_and_stops_where_it_is_clipped() -> None:
    start = margins(0.0)
    chi = gradients("chi_po", start, beta=0.1)
    for steep, plain in zip(chi, gradients("dpo", start, beta=0.1), strict=True):
        torch.testing.assert_close(steep, 2 * plain)
    clipped = gradients("chi_po", margins(6.0, -1000.0), beta=0.1, clip=20.0)
    assert not torch.stack(clipped).any()
