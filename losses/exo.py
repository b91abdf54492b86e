"""Efficient exact optimization on pairs."""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "exo",
    aliases=("exo_pair",),
    family="pairwise",
    paper="Ji et al. 2024, arXiv:2402.00856, eq. 16",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
    kl_by=("beta", "label_smoothing"),
)
def exo(
    logps: PairLogps,
    beta: Positive = 0.1,
    label_smoothing: Annotated[float, Range(0, 0.5, closed_low=False, closed_high=False)] = 1e-3,
    label_normalization: Annotated[float, Range(0, 1)] = 1.0,
) -> Tensor:
    """Reverse KL from policy to smoothed label: s(z) (ls(z) - ln(1-e)) + s(-z) (ls(-z) - ln e).

    s is the sigmoid, ls its logarithm, z = beta margin, e `label_smoothing`. Where DPO fits the
    policy's choice to the label by forward KL, this takes the reverse one, as RLHF does. e must
    be above 0, or the label's logarithm does not exist. `label_normalization` multiplies ln(1-e):
    1 is the equation, whose label is a distribution; 0 is the authors' code, whose label is (1, e)
    with e = e^-10, 4.54e-5.

    The gradient with respect to the margin is beta s(z) s(-z) (z - ln((1-e)/e)): it vanishes at
    z = ln((1-e)/e), 6.9 at the default (10 at the authors' label), and fades on
    *both* sides, however wrong a pair is.

    Use it when the policy should commit to some good responses rather than cover all of them.

    Watch: a pair that the policy has far on the wrong side has almost no gradient and stays there.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> exo(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)
    tensor([2.7612])
    """
    z = beta * logps.margin
    chosen = z.sigmoid() * (logsigmoid(z) - label_normalization * math.log1p(-label_smoothing))
    rejected = (-z).sigmoid() * (logsigmoid(-z) - math.log(label_smoothing))
    return chosen + rejected
