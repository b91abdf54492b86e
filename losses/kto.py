"""Kahneman-Tversky optimization on pairs."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import relu

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "kto",
    family="anchored",
    paper="Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8, both responses of a pair",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
    needs=("mismatched_logratio",),
    batch_coupled=True,
)
def kto(
    logps: PairLogps,
    beta: Positive = 0.1,
    lam: Annotated[float, Range(low=0)] = 1.0,
) -> Tensor:
    """Gains and losses against a reference point: 1 - s(beta(a - z0)) + lam (1 - s(beta(z0 - b))).

    s is the sigmoid; a and b are the log-ratios of chosen and rejected (nats, summed over the
    response); the reference point z0 = max(0, mean mismatched log-ratio) estimates the KL from
    responses to other prompts, over the whole batch of a step, detached; `lam` weighs rejected
    responses against chosen ones (the paper's lambda_U / lambda_D).

    The gradient is -beta s'(beta (a - z0)) with respect to a and lam beta s'(beta (z0 - b)) with
    respect to b, s' = s (1 - s): largest where a response lies at the reference point, fading on
    both sides.

    Use it when labels say good or bad rather than better or worse, or when they are noisy.

    Watch: responses that have moved far the wrong way are given up. z0 is a mean over the batch:
    small batches make it noisy, and public implementations estimate it differently.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> kto(PairLogps(*[zero] * 4, one, one, mismatched_logratio=zero))  # 1/2 + 1/2
    tensor([1.])
    """
    point = relu(logps.mismatched_logratio.mean()).detach()
    chosen = (beta * (point - logps.chosen_logratio)).sigmoid()
    rejected = (beta * (logps.rejected_logratio - point)).sigmoid()
    return chosen + lam * rejected
