"""Regression of the implicit reward difference on a given one."""

from __future__ import annotations

from torch import Tensor

from dpo_bench.contract import PairLogps, Positive, register


@register(
    "reward_distillation",
    aliases=("rebel",),
    family="graded",
    paper="Fisch et al. 2024, arXiv:2405.19316, pairwise distillation; "
    "Gao et al. 2024 (REBEL), arXiv:2404.16767, the regression with beta = 1/eta",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
    needs=("preference_margin",),
)
def reward_distillation(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Squared distance of the implicit from the given reward difference: (beta (a - b) - m)^2.

    a and b are the log-ratios of chosen and rejected (nats, summed over the response), m the reward
    of the chosen response minus that of the rejected one, from the data's margin column
    (`data.margin_column`; the embedded worlds give the gold rewards). Its optimum is the reference
    tilted by exp(reward / beta), whatever the distribution of the pairs.

    The gradient with respect to the margin is 2 beta (beta margin - m): linear and unbounded on
    both sides of the target, which is the pair's own.

    Use it when there are rewards and not only labels: a pair that is barely better is not pushed
    as far as one that is much better.

    Watch: it believes m, noise included; errors are squared.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> reward_distillation(PairLogps(*[zero] * 4, one, one, preference_margin=2 * one))
    tensor([4.])
    """
    return (beta * logps.margin - logps.preference_margin) ** 2
