"""Chi-squared preference optimization."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, expm1, maximum, minimum, zeros_like
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register

from ._numerics import LIMIT, beyond_limit


def _continued(logps: PairLogps, beta: float, clip: float) -> Tensor:
    """Where the exponent is held and the argument, which is then too small, is not clipped."""
    held = beyond_limit(maximum(logps.chosen_logratio, logps.rejected_logratio))
    return held & (_argument(logps, beta).abs() < clip) & (logps.margin != 0)


@register(
    "chi_po",
    family="anchored",
    paper="Huang et al. 2024, arXiv:2407.13399, algorithm 1",
    normalization="sum",
    grid=(0.005, 0.015, 0.05, 0.15, 0.5),
    continued=_continued,
)
def chi_po(
    logps: PairLogps,
    beta: Positive = 0.05,
    clip: Annotated[float, Range(0, 100, closed_low=False)] = 20.0,
) -> Tensor:
    """DPO with the log-ratio u replaced by e^u + u: -log sigmoid(clip(beta (e^a + a - e^b - b))).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response); the argument
    is clipped to ± `clip`, the paper's 2 R_max for rewards in [0, R_max]. The link adds the
    chi-squared divergence to the KL, which costs more for responses that the reference hardly ever
    gives.

    The gradient is -beta s (1 + e^a) with respect to a and beta s (1 + e^b) with respect to b, s
    the sigmoid of minus the argument; twice DPO's at the reference, DPO's when both responses have
    become unlikely, and exactly zero once the argument is clipped, on *either* side.

    e^a - e^b is taken as e^max(a,b) (1 - e^-|a-b|) with its first exponent held at 20. From there
    on the argument is clipped anyway, but for pairs that agree to 1e-4 nats: nothing else changes.

    Use it when DPO over-optimizes: few pairs, many epochs, small `beta`.

    Watch: a rejected response that has become clip / beta times more likely has no gradient
    left; log-ratios of whole responses make e^a large, so that `beta` is smaller than DPO's.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> chi_po(PairLogps(zero, zero, zero, zero, one, one))  # ln 2 at the reference
    tensor([0.6931])
    """
    return -logsigmoid(_argument(logps, beta).clamp(-clip, clip))


def _argument(logps: PairLogps, beta: float) -> Tensor:
    """What is clipped: beta (e^a + a - e^b - b)."""
    a, b = logps.chosen_logratio, logps.rejected_logratio
    margin, zero = a - b, zeros_like(a)
    # minimum, not clamp: at a == b its gradient is shared, which makes the sum's slope exact there
    fraction = expm1(minimum(margin, zero)) - expm1(minimum(-margin, zero))
    ratios = maximum(a, b).clamp(max=LIMIT).exp() * fraction
    return beta * (ratios + margin)
