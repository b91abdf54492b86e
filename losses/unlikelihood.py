"""Chosen up, rejected down, without restraint."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from dpo_bench.contract import PairLogps, Range, register


@register(
    "unlikelihood",
    family="reference-free",
    paper="Rafailov et al. 2023, arXiv:2305.18290, the baseline Unlikelihood",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 0.6, 1.0),
    needs_reference=False,
)
def unlikelihood(logps: PairLogps, alpha: Annotated[float, Range(0, 1)] = 0.1) -> Tensor:
    """Likelihood of the chosen minus alpha times that of the rejected: -p_w + alpha p_l.

    p_w and p_l are the policy's log-probs of chosen and rejected (nats, summed over the response);
    `alpha` in [0, 1] is the paper's optional coefficient of the second term. Nothing is clipped.

    The gradient is -1 with respect to p_w and `alpha` with respect to p_l, however far either is.

    Use it to see what preference losses protect against. `alpha` is its strength: larger goes
    further.

    Watch: it has no minimum. The cheapest way down is to make rejected responses impossible, which
    ruins the text; the paper dropped this baseline from two of its three tasks for that reason.

    >>> import torch
    >>> p, one = -torch.ones(1), torch.ones(1)
    >>> unlikelihood(PairLogps(p, p, p, p, one, one), alpha=0.1)
    tensor([0.9000])
    """
    return -logps.policy_chosen + alpha * logps.policy_rejected
