"""Generalized preference optimization: one binary-classification loss each, of z = beta margin."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from dpo_bench.contract import PairLogps, Positive, register

from ._numerics import beyond_limit, exp_or_tangent

PAPER = "Tang et al. 2024, arXiv:2402.05749"
GRID = (0.03, 0.1, 0.3, 1.0, 3.0)


@register(
    "gpo_exp",
    family="pairwise",
    paper=f"{PAPER}, exponential loss",
    normalization="sum",
    grid=GRID,
    continued=lambda logps, beta: beyond_limit(-beta * logps.margin),
)
def gpo_exp(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Exponential loss of the margin: exp(-z), z = beta (a - b).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response). Below
    z = -20, where the exponential would overflow, the loss follows its tangent: it stays convex,
    its slope continuous, and a pair there still outweighs one at the reference 5e8 times.

    The gradient with respect to the margin is -beta exp(-z): it fades faster than DPO's on the
    winning side and explodes on the losing side.

    Use it on clean labels, to study what an unforgiving loss does.

    Watch: a single mislabeled pair dominates everything; clip gradients. At a `beta` of 3 the
    tangent begins at a margin of -6.7 nats, which ordinary pairs reach: training.parquet counts the
    pairs there (`continued`) and the report warns of them.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> gpo_exp(PairLogps(zero, zero, zero, zero, one, one))
    tensor([1.])
    """
    return exp_or_tangent(-beta * logps.margin)


@register(
    "gpo_squared",
    family="pairwise",
    paper=f"{PAPER}, squared loss",
    normalization="sum",
    grid=(0.01, 0.03, 0.1, 0.3, 1.0),
)
def gpo_squared(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Squared loss of the margin: (z - 1)^2, z = beta (a - b).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response). It is
    `ipo_sum` at half this `beta`, divided by its square: same optimum, another scale.

    The gradient with respect to the margin is 2 beta (z - 1): linear and unbounded on both sides of
    the target z = 1, so that a pair that has overshot is pulled back.

    Use it like IPO, with a learning rate that need not follow `beta`.

    Watch: one far-off pair dominates a batch, because errors are squared.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> gpo_squared(PairLogps(zero, zero, zero, zero, one, one))
    tensor([1.])
    """
    return (beta * logps.margin - 1) ** 2


@register(
    "gpo_truncated_quadratic",
    family="pairwise",
    paper=f"{PAPER}, truncated quadratic loss",
    normalization="sum",
    grid=GRID,
)
def gpo_truncated_quadratic(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Squared hinge of the margin: max(0, 1 - z)^2, z = beta (a - b).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response).

    The gradient with respect to the margin is -2 beta max(0, 1 - z): it shrinks linearly to zero at
    z = 1 and stays there, without the hinge's jump; on the losing side it grows without bound.

    Use it when a pair that is won should be left alone and training should slow down before that.

    Watch: a mislabeled pair counts with its squared distance, and when every pair is won training
    stands still.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> gpo_truncated_quadratic(PairLogps(zero, zero, zero, zero, one, one))
    tensor([1.])
    """
    return relu(1 - beta * logps.margin) ** 2


@register(
    "gpo_savage",
    family="pairwise",
    paper=f"{PAPER}, Savage loss",
    normalization="sum",
    grid=GRID,
)
def gpo_savage(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Savage loss of the margin: 1 / (1 + e^z)^2, z = beta (a - b).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response). Unlike the
    other losses of its family it is bounded, by 1, and therefore not convex.

    The gradient with respect to the margin is -2 beta sigmoid(z) sigmoid(-z)^2: it fades on both
    sides and is largest at z = -ln 2.

    Use it with many wrong labels: a pair far on the losing side is taken for one and given up.

    Watch: pairs that are right but far on the losing side are given up too.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> gpo_savage(PairLogps(zero, zero, zero, zero, one, one))
    tensor([0.2500])
    """
    return (-beta * logps.margin).sigmoid() ** 2
