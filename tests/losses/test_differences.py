"""How far other code's formulas are from ours, as docs/differences.md says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from dpo_bench import PairLogps, get_loss

DOCUMENT = Path(__file__).parents[2] / "docs" / "differences.md"
Batch = Callable[[PairLogps], Tensor]


def random_pairs(count: int = 40) -> PairLogps:
    """Log-ratios of about 5 nats, 1 to 150 tokens of about 1.5 nats each."""
    generator = torch.Generator().manual_seed(0)

    def normal(mean: float, deviation: float) -> Tensor:
        return mean + deviation * torch.randn(count, generator=generator, dtype=torch.float64)

    tokens = [
        (150 ** torch.rand(count, generator=generator, dtype=torch.float64)).round() for _ in "wl"
    ]
    policy = [-n * normal(1.5, 0.3).clamp(min=0.2) for n in tokens]
    reference = [p - normal(0, 5) for p in policy]
    confidence = [normal(-0.3, 0.3), normal(-0.5, 0.3)]
    shared = torch.minimum(*tokens)
    part = [shared / n for n in tokens]
    return PairLogps(
        policy[0],
        policy[1],
        reference[0],
        reference[1],
        tokens[0],
        tokens[1],
        preference_margin=normal(1, 0.5),
        policy_chosen_shared=part[0] * policy[0],
        policy_rejected_shared=part[1] * policy[1],
        reference_chosen_shared=part[0] * reference[0],
        reference_rejected_shared=part[1] * reference[1],
        chosen_confidence=confidence[0],
        rejected_confidence=confidence[1],
    )


PAIRS = random_pairs()


def slope(batch: Batch) -> Tensor:
    """Gradient of a batch's loss in the log-probs of its responses, shape [2 pairs]."""
    names = ("policy_chosen", "policy_rejected")
    shared = {name: getattr(PAIRS, name).clone().requires_grad_() for name in names}
    # The shared part of a response moves with it.
    moved = {
        f"{name}_shared": getattr(PAIRS, f"{name}_shared") * leaf / leaf.detach()
        for name, leaf in shared.items()
    }
    total = batch(replace(PAIRS, **shared, **moved))
    return torch.cat(torch.autograd.grad(total, list(shared.values()), materialize_grads=True))


def shipped(name: str, **hyperparameters: float) -> Batch:
    return lambda x: get_loss(name)(x, **hyperparameters).mean()


def ratios(x: PairLogps) -> tuple[Tensor, Tensor]:
    return x.chosen_logratio, x.rejected_logratio


def per_token(x: PairLogps) -> tuple[Tensor, Tensor]:
    return x.policy_chosen / x.chosen_tokens, x.policy_rejected / x.rejected_tokens


def token_mean(x: PairLogps) -> Tensor:
    """NLL of the chosen responses over all tokens of the batch."""
    return -x.policy_chosen.sum() / x.chosen_tokens.sum()


def calibrated(x: PairLogps) -> Tensor:
    a, b = ratios(x)
    squares = (a - 500) ** 2 + (b + 500) ** 2
    return (-logsigmoid(x.margin) + 0.5 * squares).mean()


def averaged_squares(x: PairLogps) -> Tensor:
    a, b = ratios(x)
    return ((a - 500) ** 2 + (b + 500) ** 2).mean() / 2


def unnormalized(beta: float) -> Batch:
    def batch(x: PairLogps) -> Tensor:
        z = beta * x.margin
        return (z.sigmoid() * logsigmoid(z) + (-z).sigmoid() * (logsigmoid(-z) + 10)).mean()

    return batch


def damped_policy(x: PairLogps) -> Tensor:
    def damped(whole: Tensor, part: Tensor | None) -> Tensor:
        assert part is not None
        return part + 0.5 * (whole - part)

    a = damped(x.policy_chosen, x.policy_chosen_shared) - x.reference_chosen
    b = damped(x.policy_rejected, x.policy_rejected_shared) - x.reference_rejected
    return -logsigmoid(0.1 * (a - b)).mean()


def lengths_the_other_way(x: PairLogps) -> Tensor:
    return -logsigmoid(0.1 * x.margin - 0.05 * (x.chosen_tokens - x.rejected_tokens)).mean()


def exp_of_mean_logp(x: PairLogps) -> Tensor:
    chosen, rejected = per_token(x)
    weight = (chosen + rejected).exp().detach()
    return (weight * -logsigmoid(0.1 * x.margin)).mean()


def slic_of_sums(x: PairLogps) -> Tensor:
    distance = relu(1 - (x.policy_chosen - x.policy_rejected))
    return (distance - 0.1 * x.policy_chosen).mean()


def rrhf_of_sums(x: PairLogps) -> Tensor:
    chosen, rejected = per_token(x)
    return (relu(rejected - chosen) - x.policy_chosen).mean()


def orpo_by_tokens(x: PairLogps) -> Tensor:
    odds = [p - torch.log(-torch.expm1(p)) for p in per_token(x)]
    return token_mean(x) - 0.1 * logsigmoid(odds[0] - odds[1]).mean()


def cpo_by_tokens(x: PairLogps) -> Tensor:
    return -logsigmoid(0.1 * (x.policy_chosen - x.policy_rejected)).mean() + token_mean(x)


def scaled_rewards(x: PairLogps) -> Tensor:
    """REBEL's own code: eta x (reward difference) against the log-ratio's, here at eta = 10."""
    assert x.preference_margin is not None
    return ((x.margin - 10 * x.preference_margin) ** 2).mean()


ROWS: list[tuple[str, Batch, Batch]] = [
    ("cal_dpo", shipped("cal_dpo", beta=0.001), calibrated),
    ("sppo", shipped("sppo", beta=0.001), averaged_squares),
    ("exo, beta 0.1", shipped("exo", beta=0.1), unnormalized(0.1)),
    ("exo, beta 0.5", shipped("exo", beta=0.5), unnormalized(0.5)),
    ("ld_dpo", shipped("ld_dpo", beta=0.1, alpha=0.5), damped_policy),
    ("length_dpo", shipped("length_dpo", beta=0.1, alpha=0.05), lengths_the_other_way),
    ("wpo(dpo)", shipped("wpo(dpo)", beta=0.1), exp_of_mean_logp),
    ("slic", shipped("slic"), slic_of_sums),
    ("rrhf", shipped("rrhf"), rrhf_of_sums),
    ("orpo", shipped("orpo", lam=0.1), orpo_by_tokens),
    ("cpo", shipped("cpo", beta=0.1, alpha=1.0), cpo_by_tokens),
    ("rebel", shipped("reward_distillation", beta=0.1), scaled_rewards),
]


def figures(ours: Batch, theirs: Batch) -> tuple[float, float]:
    """Cosine between both gradients, and the norm of theirs over the norm of ours."""
    one, other = slope(ours), slope(theirs)
    cosine = float(one @ other / (one.norm() * other.norm()))
    return cosine, float(other.norm() / one.norm())


@pytest.mark.parametrize(("name", "ours", "theirs"), ROWS, ids=[row[0] for row in ROWS])
def test_documented_distance_is_the_measured_one(name: str, ours: Batch, theirs: Batch) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    row = re.search(rf"^\| `{re.escape(name)}` \| (\S+) \| (\S+) \|", text, re.MULTILINE)
    cosine, ratio = figures(ours, theirs)
    assert row, f"| `{name}` | {cosine:.3f} | {ratio:.3g} |"
    assert row.groups() == (f"{cosine:.3f}", f"{ratio:.3g}")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (shipped("cal_dpo", beta=0.001, calibration_weight=0.5), calibrated),
        (
            shipped("exo", beta=0.5, label_smoothing=math.exp(-10), label_normalization=0.0),
            unnormalized(0.5),
        ),
    ],
)
def test_variants_are_the_authors_code(ours: Batch, theirs: Batch) -> None:
    torch.testing.assert_close(slope(ours), slope(theirs))
