"""Self-play preference optimization with hard labels."""

from __future__ import annotations

from torch import Tensor

from dpo_bench.contract import PairLogps, Positive, register


@register(
    "sppo",
    aliases=("sppo_hard",),
    family="anchored",
    paper="Wu et al. 2024, arXiv:2405.00675, the squared loss with win probabilities 1 and 0",
    normalization="sum",
    grid=(0.001, 0.01, 0.03, 0.1, 0.3),
)
def sppo(logps: PairLogps, beta: Positive = 0.001) -> Tensor:
    """Each log-ratio has its own target: (a - 1/(2 beta))^2 + (b + 1/(2 beta))^2.

    a and b are the log-ratios of chosen and rejected (nats, summed over the response); the paper's
    eta is 1/beta, and its estimated win probability is 1 for the chosen response, 0 for the other.

    The gradient is 2 (a - 1/(2 beta)) with respect to a and 2 (b + 1/(2 beta)) with respect to b:
    it grows linearly, without bound, on both sides of each target.

    Use it when the chosen response itself should become more likely, by a known amount.

    Watch: at the paper's `beta` of .001 the targets lie 500 nats away, the loss is a straight line
    over all that can be reached and its value is dominated by a constant. The paper applies it in
    rounds to fresh samples of the policy.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> sppo(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)  # 2 (1 / 0.2) ** 2
    tensor([50.])
    """
    target = 1 / (2 * beta)
    return (logps.chosen_logratio - target) ** 2 + (logps.rejected_logratio + target) ** 2
