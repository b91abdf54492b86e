"""DPO with a length penalty."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "length_dpo",
    aliases=("r_dpo",),
    family="length-aware",
    paper="Park et al. 2024, arXiv:2403.19159, the length-regularized objective",
    normalization="sum",
    grid=(0.01, 0.05, 0.1, 0.3, 1.0),
)
def length_dpo(
    logps: PairLogps,
    beta: Positive = 0.1,
    alpha: Annotated[float, Range(low=0)] = 0.05,
) -> Tensor:
    """DPO that pays per token: -log sigmoid(beta (a - b) + alpha (n_w - n_l)).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response), n_w and n_l
    their token counts, `alpha` the price of a token in units of the reward. It is the maximum
    likelihood for the optimum of E[reward] - alpha E[length] - beta KL, whose reward is
    beta log-ratio + alpha length: this fixes the sign. At alpha = 0 it is DPO. Published searches
    go over `alpha` of .05 to 1 and `beta` of .01 to .1 (Meng et al. 2024, arXiv:2405.14734, R-DPO).

    The gradient with respect to the margin is -beta sigmoid(-(beta margin + alpha (n_w - n_l))): a
    pair that is won by its length teaches less, one that is won in spite of it more.

    Use it when responses grow with training and length is not what was asked for.

    Watch: with large `alpha` lengths decide which pairs count, whatever they say; where policy and
    reference agree, the loss depends on the lengths.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> length_dpo(PairLogps(zero, zero, zero, zero, one, one))  # ln 2 when lengths are equal
    tensor([0.6931])
    """
    tokens = (logps.chosen_tokens - logps.rejected_tokens).to(logps.margin.dtype)
    return -logsigmoid(beta * logps.margin + alpha * tokens)
