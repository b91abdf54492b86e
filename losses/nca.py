"""Noise contrastive alignment on pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, register


@register(
    "nca",
    aliases=("nca_pair",),
    family="anchored",
    paper="Chen et al. 2024, arXiv:2402.05369, the NCA loss with K = 2 and 0/1 rewards",
    normalization="sum",
    grid=(0.01, 0.03, 0.1, 0.3, 1.0),
)
def nca(logps: PairLogps, beta: Positive = 0.01) -> Tensor:
    """Chosen against noise: -ls(beta a) - ls(-beta a)/2 - ls(-beta b)/2, ls = log sigmoid.

    a and b are the log-ratios of chosen and rejected (nats, summed over the response). Each
    response is told from the reference's by itself, instead of from the other one.

    The gradient with respect to a is beta (3/2 sigmoid(beta a) - 1): it vanishes at beta a = ln 2,
    so that the chosen response gains and then rests there. With respect to b it is
    beta/2 sigmoid(beta b): the rejected response is pushed down without end, but ever more weakly.

    Use it when DPO lowers the likelihood of the chosen responses.

    Watch: at the paper's `beta` of .01 the resting point is 69 nats away, so that on short
    responses the loss is a straight line over all that can be reached, and `beta` hardly matters.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> nca(PairLogps(zero, zero, zero, zero, one, one))  # 2 ln 2 at the reference
    tensor([1.3863])
    """
    chosen, rejected = beta * logps.chosen_logratio, beta * logps.rejected_logratio
    return -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2
