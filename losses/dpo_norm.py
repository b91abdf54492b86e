"""Length-normalized DPO."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, register


@register(
    "dpo_norm",
    aliases=("sigmoid_norm",),
    family="length-aware",
    paper="Lambert et al. 2024 (Tulu 3), arXiv:2411.15124, length-normalized DPO",
    normalization="mean",
    grid=(0.5, 1.5, 5.0, 15.0, 50.0),
)
def dpo_norm(logps: PairLogps, beta: Positive = 5.0) -> Tensor:
    """DPO on log-ratios per token: -log sigmoid(beta (a/n_w - b/n_l)).

    a and b are the log-ratios of chosen and rejected (nats), n_w and n_l their token counts.

    The gradient with respect to the margin per token m is -beta sigmoid(-beta m): like DPO's it
    fades once a pair is won and never reaches zero. Each token of a long response gets less of it.

    Use it when chosen responses are systematically longer and the policy should not learn that.

    Watch: the implicit reward is an average, so `beta` is larger than DPO's by about the length of
    a response, and the optimum is no longer a tilt of the reference by the reward of whole texts.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> dpo_norm(PairLogps(zero, zero, zero, zero, one, one))  # ln 2 at the reference
    tensor([0.6931])
    """
    return -logsigmoid(beta * logps.margin_per_token)
