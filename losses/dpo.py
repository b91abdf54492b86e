"""Direct preference optimization."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, register


@register(
    "dpo",
    aliases=("sigmoid",),
    family="pairwise",
    paper="Rafailov et al. 2023, arXiv:2305.18290, eq. 7",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
)
def dpo(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Logistic loss on the margin of log-ratios: -log sigmoid(beta (a - b)).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response). Its optimum
    under Bradley-Terry preferences is the reference tilted by exp(reward / beta).

    The gradient with respect to the margin is -beta sigmoid(-beta margin): it fades once a pair is
    won by a few 1/beta, but never reaches zero.

    Use it as the baseline.

    Watch: with deterministic labels the margin grows without bound, and the log-probability of the
    chosen response may fall along with that of the rejected one.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> dpo(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)  # ln 2 at the reference
    tensor([0.6931])
    """
    return -logsigmoid(beta * logps.margin)
