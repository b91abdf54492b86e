"""When DPO's loss is low enough to have corrected a ranking that the reference has wrong."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dpo_bench.contract import get_loss
from dpo_bench.reproduce.record import PublishedCurve, PublishedRow, Reproduced
from dpo_bench.reproduce.tabular import pair_logps

PUBLISHED = {(0.1, 5.0): 0.474, (0.1, 30.0): 0.049}
"""(beta, error of the reference's log-ratio in nats) -> loss at which the ranking flips"""
PAIR = ((0, 1),)
STEPS = 2_000


def run(source: str) -> Reproduced:
    """Descend on one misranked pair and read off the loss where its ranking flips."""
    rows, curves = [], []
    for (beta, error), published in PUBLISHED.items():
        margins, losses = zip(*_descend(beta, error), strict=True)
        flip = next(index for index, margin in enumerate(margins) if margin > 0)
        share = margins[flip - 1] / (margins[flip - 1] - margins[flip])
        crossing = losses[flip - 1] + share * (losses[flip] - losses[flip - 1])
        at = f"beta {beta:g}, c {error:g}"
        rows.append(
            PublishedRow(source, "loss at the flip", at, published, crossing, 5e-4, "formula"),
        )
        threshold = float(torch.nn.functional.softplus(torch.tensor(-beta * error).double()))
        wrong = sum(
            (margin > 0) != (loss < threshold) for margin, loss in zip(margins, losses, strict=True)
        )
        series = "steps at which ranking and threshold disagree"
        rows.append(PublishedRow(source, series, at, 0.0, float(wrong), 0.0, "formula"))
        curves.append(PublishedCurve(at, margins, losses))
    rows.sort(key=lambda row: row.series)
    axes = ("log pi(chosen) - log pi(rejected), nats", "DPO loss")
    return Reproduced(tuple(rows), TEXT, tuple(curves), axes)


def _descend(beta: float, error: float) -> Iterator[tuple[float, float]]:
    """The policy's own margin and its loss along gradient descent, until well past the flip."""
    reference = torch.tensor([0.0, error], dtype=torch.float64).log_softmax(0)
    logits = reference.clone().requires_grad_()
    loss_of = get_loss("dpo")
    for _ in range(STEPS):
        policy = logits.log_softmax(0)
        loss: Tensor = loss_of(pair_logps(policy, reference, PAIR), beta=beta).mean()
        margin = float((policy[0] - policy[1]).detach())
        yield margin, float(loss.detach())
        if margin > 3:
            return
        (slope,) = torch.autograd.grad(loss, logits)
        # each step moves the margin by the same 0.05 nats: DPO's gradient fades as pairs are won
        logits = (logits - 0.025 * slope / slope.abs().max()).detach().requires_grad_()


TEXT = """\
The reference ranks a pair wrongly, by c nats. The policy ranks it rightly only once its margin over
the reference exceeds c, that is once DPO's loss is at most -log sigmoid(beta c). Gradient descent
on such a pair, through the registry's `dpo` (steps of .05 nats in the margin), flips the ranking
there: with beta .1 and c = 30 the loss has to fall from .693 to .049 first. A low training loss
alone does not tell that rankings were corrected."""
