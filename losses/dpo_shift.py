"""DPO-Shift: the rejected response counts less."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "dpo_shift",
    family="anchored",
    paper="Yang et al. 2025, arXiv:2502.07599, the DPO-Shift loss with constant f(lambda)",
    normalization="sum",
    grid=(0.01, 0.03, 0.1, 0.3, 1.0),
)
def dpo_shift(
    logps: PairLogps,
    beta: Positive = 0.01,
    lam: Annotated[float, Range(0, 1, closed_low=False)] = 0.95,
) -> Tensor:
    """DPO with the rejected log-ratio scaled down: -log sigmoid(beta (a - lam b)).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response); `lam` is the
    paper's f(lambda) in (0, 1], here the same at every step (it also tries schedules). Its authors
    train at a `beta` of .01 and fixed `lam` of .55 to .99. At lam = 1 it is DPO.

    The gradient is -beta s with respect to a and lam beta s with respect to b, s = sigmoid(-beta (a
    - lam b)): pushing the rejected response down gains less than lifting the chosen one.

    Use it when DPO lowers the likelihood of the chosen responses along with the rejected ones.

    Watch: what the chosen response gains is paid with margin: accuracy falls with small `lam`. At
    `beta` of .01 the loss is nearly linear in log-ratios of a few dozen nats: a small model goes as
    far as its learning rate takes it.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> dpo_shift(PairLogps(zero, zero, zero, zero, one, one))  # ln 2 at the reference
    tensor([0.6931])
    """
    return -logsigmoid(beta * (logps.chosen_logratio - lam * logps.rejected_logratio))
