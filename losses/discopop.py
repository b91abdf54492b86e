"""The loss that a language model discovered."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "discopop",
    aliases=("lrml",),
    family="pairwise",
    paper="Lu et al. 2024, arXiv:2406.08414, eq. 5",
    normalization="sum",
    grid=(0.05, 0.1, 0.25, 1.0, 2.5),
)
def discopop(
    logps: PairLogps,
    beta: Positive = 0.05,
    tau: Annotated[float, Range(0, 1, closed_low=False, closed_high=False)] = 0.05,
) -> Tensor:
    """Logistic where lost, exponential where won: (1-m) (-ls(z)) + m exp(-z), m = s(z / tau).

    s is the sigmoid, ls its logarithm and z = beta margin; the temperature `tau` says how sharply
    one loss turns into the other at z = 0. m exp(-z) is computed as exp(ls(z/tau) - z), which
    cannot overflow while tau < 1.

    The gradient with respect to the margin is beta (m (1-m)/tau (exp(-z) + ls(z)) - (1-m) s(-z) -
    m exp(-z)): DPO's on the losing side, fading like exp(-z) on the winning side, and of the other
    sign in between.

    Use it where its paper did: pairs of a clear quality difference, `beta` of .05 and more.

    Watch: it is not convex. It has a valley at z = -2.4 tau and a hill at z = 1.4 tau, so that at
    the reference the gradient points the *wrong* way and pairs come to rest in the valley unless
    their margins scatter beyond the hill, which is 1.4 tau / beta nats wide. With `beta` so
    small that they do not, training collapses, as the paper saw at .01.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> discopop(PairLogps(zero, zero, zero, zero, one, one))  # (ln 2 + 1) / 2 at the reference
    tensor([0.8466])
    """
    z = beta * logps.margin
    logistic = -(-z / tau).sigmoid() * logsigmoid(z)
    exponential = (logsigmoid(z / tau) - z).exp()
    return logistic + exponential
