"""Hinge loss on the margin of log-ratios."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from dpo_bench.contract import PairLogps, Positive, register


@register(
    "hinge",
    family="pairwise",
    paper="Liu et al. 2023 (RSO), arXiv:2309.06657, the hinge-norm loss",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
)
def hinge(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Hinge loss on the margin of log-ratios: max(0, 1 - beta (a - b)).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response); `beta` is
    the paper's gamma. SLiC's calibration loss has the same shape but no reference.

    The gradient with respect to the margin is -beta until the margin reaches 1/beta and exactly 0
    from there on: a pair that is won by 1/beta no longer counts.

    Use it when the policy should stop at a given margin instead of pushing easy pairs further.

    Watch: a mislabeled pair pulls at full strength however far it lies on the wrong side, and when
    every pair is won the gradient is zero and training stands still.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> hinge(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)
    tensor([1.])
    """
    return relu(1 - beta * logps.margin)
