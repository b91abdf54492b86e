"""Provably robust DPO."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "robust_dpo",
    family="pairwise",
    paper="Chowdhury et al. 2024, arXiv:2403.00409, the unbiased loss under flips",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
    kl_by=("beta", "label_smoothing"),
)
def robust_dpo(
    logps: PairLogps,
    beta: Positive = 0.1,
    label_smoothing: Annotated[float, Range(0, 0.5, closed_high=False)] = 0.1,
) -> Tensor:
    """DPO made unbiased under flipped labels: (-(1-e) ls(z) + e ls(-z)) / (1-2e), z = beta margin.

    ls is log sigmoid and e, `label_smoothing`, the rate at which labels were flipped. Its mean over
    flips of that rate is DPO's loss on the clean labels. At e = 0 it is DPO.

    The gradient with respect to the margin is -beta ((1-e) sigmoid(-z) + e sigmoid(z)) / (1-2e): it
    never vanishes but tends to -beta e / (1-2e) for a pair that is won by far.

    Use it when the flip rate is known and there are enough pairs to average over.

    Watch: the loss is not bounded below and the margin has no finite optimum, so with few pairs it
    overfits faster than DPO. It is not cDPO, whose second term has the other sign.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> robust_dpo(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)  # ln 2 at the reference
    tensor([0.6931])
    """
    z = beta * logps.margin
    clean = -(1 - label_smoothing) * logsigmoid(z) + label_smoothing * logsigmoid(-z)
    return clean / (1 - 2 * label_smoothing)
