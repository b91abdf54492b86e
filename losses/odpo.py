"""DPO with an offset from the data."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "odpo",
    aliases=("margin",),
    family="graded",
    paper="Amini et al. 2024, arXiv:2402.10571, eq. 8, the offset linear in the score difference",
    normalisation="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
    needs=("preference_margin",),
)
def odpo(
    logps: PairLogps,
    beta: Positive = 0.1,
    alpha: Annotated[float, Range(low=0)] = 1.0,
) -> Tensor:
    """DPO that asks for more where the data says more: -log sigmoid(beta (a - b) - alpha m).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response), m how much
    better the chosen response is, from the data's margin column (`data.margin_column`; the embedded
    worlds give the difference of the gold rewards). The paper also tries the logarithm of the
    difference, which a column can hold as well. At alpha = 0 it is DPO.

    The gradient with respect to the margin is -beta sigmoid(alpha m - beta margin): it fades once a
    pair is won by more than its own offset.

    Use it when the data says by how much a response is better, not only that it is.

    Watch: m is in the data's unit, so `alpha` must bring it to the scale of a reward; a negative
    margin, from a flipped label, asks for less than winning.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> odpo(PairLogps(*[zero] * 4, one, one, preference_margin=one))  # ln(1 + e)
    tensor([1.3133])
    """
    return -logsigmoid(beta * logps.margin - alpha * logps.preference_margin)
