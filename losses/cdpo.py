"""Conservative DPO."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "cdpo",
    aliases=("label_smoothed",),
    family="pairwise",
    paper="Mitchell 2023, A note on DPO with noisy preferences and relationship to IPO",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
)
def cdpo(
    logps: PairLogps,
    beta: Positive = 0.1,
    label_smoothing: Annotated[float, Range(0, 0.5, closed_high=False)] = 0.1,
) -> Tensor:
    """DPO with smoothed labels: -(1-e) log sigmoid(z) - e log sigmoid(-z), z = beta margin.

    e is `label_smoothing`, the share of labels that are believed to be flipped. At e = 0 it is DPO.

    The gradient with respect to the margin is beta (sigmoid(z) - (1-e)): it vanishes at
    z = ln((1-e)/e), ln 9 = 2.2 at the default, and pushes a pair that has passed that point back.
    Far out it tends to -beta (1-e) on the losing side and to beta e on the winning side.

    Use it when labels are noisy and every margin should stay finite.

    Watch: it also pulls correct and easy pairs back, so that at equal beta it simply moves less
    than DPO; compare the two at matched KL. It is not the unbiased correction for flipped labels.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> cdpo(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)  # ln 2 at the reference
    tensor([0.6931])
    """
    z = beta * logps.margin
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)
