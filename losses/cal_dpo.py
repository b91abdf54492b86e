"""Calibrated DPO."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, register


@register(
    "cal_dpo",
    family="anchored",
    paper="Xiao et al. 2024, arXiv:2412.14516, the calibrated objective",
    normalisation="sum",
    grid=(0.01, 0.03, 0.1, 0.3, 1.0),
)
def cal_dpo(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """DPO plus calibrated rewards: -log sigmoid(a - b) + (a - 1/(2 beta))^2 + (b + 1/(2 beta))^2.

    a and b are the log-ratios of chosen and rejected (nats, summed over the response). The implicit
    rewards beta a and beta b are held to 1/2 and -1/2; the logistic term has no `beta`.

    The gradient is -sigmoid(b - a) + 2 (a - 1/(2 beta)) with respect to a and
    sigmoid(b - a) + 2 (b + 1/(2 beta)) with respect to b: linear and unbounded on both sides.

    Use it when the chosen response should become more likely and rewards should have a scale.

    Watch: the squared terms dominate unless 1/(2 beta) is of the order of 1, so that it behaves
    like `sppo`; one far-off response dominates a batch.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> cal_dpo(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)  # ln 2 + 50
    tensor([50.6931])
    """
    target = 1 / (2 * beta)
    calibration = (logps.chosen_logratio - target) ** 2 + (logps.rejected_logratio + target) ** 2
    return -logsigmoid(logps.margin) + calibration
