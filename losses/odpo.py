"""DPO with an offset from the data."""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register

from ._numerics import LIMIT

LEAST = math.exp(-LIMIT)
"""Difference below which its logarithm is not taken."""


def _continued(logps: PairLogps, beta: float, alpha: float, log_alpha: float) -> Tensor:  # noqa: ARG001
    return (logps.preference_margin < LEAST) & (log_alpha > 0)


@register(
    "odpo",
    aliases=("margin",),
    family="graded",
    paper="Amini et al. 2024, arXiv:2402.10571, eq. 8; the offset linear or logarithmic",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
    needs=("preference_margin",),
    continued=_continued,
)
def odpo(
    logps: PairLogps,
    beta: Positive = 0.1,
    alpha: Annotated[float, Range(low=0)] = 1.0,
    log_alpha: Annotated[float, Range(low=0)] = 0.0,
) -> Tensor:
    """DPO that asks for more where the data says more: -log sigmoid(beta (a - b) - alpha m).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response), m how much
    better the chosen response is, from the data's margin column (`data.margin_column`; the embedded
    worlds give the difference of the gold rewards). At alpha = 0 it is DPO.

    `log_alpha` x ln m is added to the offset: the logarithm of the difference, the only one in the
    authors' code (`alpha` 0 and `log_alpha` 1, or .5 with a `beta` of .7 on IMDb). As m falls to 0
    that offset falls without bound and the pair has no say any more; m below e^-20, negative ones
    of flipped labels included, count as e^-20: an offset of -20 `log_alpha`.

    The gradient with respect to the margin is -beta sigmoid(o - beta margin), o the offset: it
    fades once a pair is won by more than that.

    Use it when the data says by how much a response is better, not only that it is.

    Watch: m is in the data's unit, so `alpha` must bring it to the scale of a reward; a negative
    margin, from a flipped label, asks for less than winning.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> odpo(PairLogps(*[zero] * 4, one, one, preference_margin=one))  # ln(1 + e)
    tensor([1.3133])
    """
    difference = logps.preference_margin
    offset = alpha * difference + log_alpha * difference.clamp(min=LEAST).log()
    return -logsigmoid(beta * logps.margin - offset)
