"""Token-level DPO: a correction by the sequential KL, both variants."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register

PAPER = "Zeng et al. 2024, arXiv:2404.11999"
GRID = (0.03, 0.1, 0.3, 1.0, 3.0)


@register(
    "tdpo1",
    family="token-level",
    paper=f"{PAPER}, TDPO1",
    normalization="sum",
    grid=GRID,
    needs=("sequential_kl",),
)
def tdpo1(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """DPO minus the difference of sequential KLs: -log sigmoid(beta (a - b - (k_l - k_w))).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response); k_w and k_l
    are KL(reference || policy) of the next-token distributions, summed along chosen and rejected.
    All four carry a gradient, as the paper has it.

    The gradient with respect to the margin a - b is -beta s, s = sigmoid(-beta (a - b - k_l +
    k_w)); with respect to k_w it is -beta s, to k_l it is beta s: the loss asks for the policy to
    stay near the reference along the rejected response, and to leave it along the chosen one.

    Use it to compare with `tdpo2`, which mends the last point.

    Watch: k_w grows as the margin would: the policy's distribution along chosen responses may drift
    where no token needs it. It costs a forward pass of the reference at every step.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> tdpo1(PairLogps(*[zero] * 4, one, one, chosen_kl=zero, rejected_kl=zero))  # ln 2
    tensor([0.6931])
    """
    return -logsigmoid(beta * (logps.margin - (logps.rejected_kl - logps.chosen_kl)))


@register(
    "tdpo2",
    family="token-level",
    paper=f"{PAPER}, TDPO2",
    normalization="sum",
    grid=GRID,
    needs=("sequential_kl",),
    kl_by=("beta", "alpha"),
)
def tdpo2(
    logps: PairLogps,
    beta: Positive = 0.1,
    alpha: Annotated[float, Range(low=0)] = 0.5,
) -> Tensor:
    """TDPO1 with a weight and a stop: -log sigmoid(beta (a - b - alpha (k_l - sg(k_w)))).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response); k_w and k_l
    are KL(reference || policy) of the next-token distributions, summed along chosen and rejected;
    sg cuts the gradient, so that nothing is gained by leaving the reference along the chosen
    response. At alpha = 0 it is DPO.

    The gradient with respect to the margin is -beta s, with respect to k_l it is alpha beta s, s =
    sigmoid(-beta (a - b - alpha (k_l - k_w))): rejected responses are pushed down no further than
    their KL allows.

    Use it when DPO drifts far from the reference along rejected responses.

    Watch: it costs a forward pass of the reference at every step; a large `alpha` holds the
    rejected side still, and margins come from chosen responses alone.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> tdpo2(PairLogps(*[zero] * 4, one, one, chosen_kl=zero, rejected_kl=zero))  # ln 2
    tensor([0.6931])
    """
    correction = alpha * (logps.rejected_kl - logps.chosen_kl.detach())
    return -logsigmoid(beta * (logps.margin - correction))
