"""DPO-Positive."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "dpop",
    aliases=("smaug",),
    family="anchored",
    paper="Pal et al. 2024 (Smaug), arXiv:2402.13228, eq. 3",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
    kl_by=("lam", "beta"),
)
def dpop(
    logps: PairLogps,
    beta: Positive = 0.3,
    lam: Annotated[float, Range(low=0)] = 50.0,
) -> Tensor:
    """DPO that fines a loss of the chosen response: -log sigmoid(beta (a - b - lam max(0, -a))).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response). At lam = 0
    it is DPO.

    The gradient with respect to b is beta sigmoid(-beta (...)), with respect to a it is the
    negative of that, and 1 + lam times as large where the chosen response has become less likely
    than under the reference.

    Use it when chosen and rejected share most of their tokens, where DPO lowers both.

    Watch: with the default `lam` a chosen response that slips by 1 nat outweighs a margin of 50, so
    that training is mostly about holding the chosen responses and `beta` hardly matters. The slope
    jumps at a = 0, where every run starts: with large steps the loss may end above its first value
    although more pairs are in the right order.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> dpop(PairLogps(zero, zero, zero, zero, one, one))  # ln 2 at the reference
    tensor([0.6931])
    """
    return -logsigmoid(beta * (logps.margin - lam * relu(-logps.chosen_logratio)))
