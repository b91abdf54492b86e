"""Calibrated DPO."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "cal_dpo",
    family="anchored",
    paper="Xiao et al. 2024, arXiv:2412.14516, the calibrated objective",
    normalization="sum",
    grid=(0.001, 0.01, 0.03, 0.1, 0.3),
)
def cal_dpo(
    logps: PairLogps,
    beta: Positive = 0.001,
    calibration_weight: Annotated[float, Range(low=0)] = 1.0,
) -> Tensor:
    """DPO plus calibrated rewards: -log sigmoid(a - b) + (a - 1/(2 beta))^2 + (b + 1/(2 beta))^2.

    a and b are the log-ratios of chosen and rejected (nats, summed over the response). The implicit
    rewards beta a and beta b are held to 1/2 and -1/2; the logistic term has no `beta`. The two
    squares count `calibration_weight` (w below) times: 1 in the paper, 0.5 in its authors' code,
    which trains at a `beta` of .001 to .002.

    The gradient is -sigmoid(b - a) + 2 w (a - 1/(2 beta)) with respect to a and
    sigmoid(b - a) + 2 w (b + 1/(2 beta)) with respect to b: linear and unbounded on both sides.

    Use it when the chosen response should become more likely and rewards should have a scale.

    Watch: the squared terms dominate unless 1/(2 beta) is of the order of 1, so that it behaves
    like `sppo`; one far-off response dominates a batch. The authors' `beta` aims at log-ratios of
    ± 250 to 500 nats, which a small model or a short run never reaches: every pair is then pushed
    with nearly the same force and the gradient is clipped, so that those strengths hardly differ;
    from .01 upward they do.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> cal_dpo(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)  # ln 2 + 50
    tensor([50.6931])
    """
    target = 1 / (2 * beta)
    calibration = (logps.chosen_logratio - target) ** 2 + (logps.rejected_logratio + target) ** 2
    return -logsigmoid(logps.margin) + calibration_weight * calibration
