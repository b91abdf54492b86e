"""Rank responses to align with human feedback."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import relu

from dpo_bench.contract import PairLogps, Range, register


@register(
    "rrhf",
    family="reference-free",
    paper="Yuan et al. 2023, arXiv:2304.05302, two responses, imitation averaged over tokens",
    normalization="mean",
    grid=(0.1, 0.3, 1.0, 3.0, 10.0),
    needs_reference=False,
)
def rrhf(logps: PairLogps, lam: Annotated[float, Range(low=0)] = 1.0) -> Tensor:
    """Ranking without a margin plus imitation: max(0, p_l - p_w) - lam p_w.

    p_w and p_l are the policy's log-probs per token of chosen and rejected (nats). `lam` weighs
    imitation of the chosen response; the paper's is 1.

    The gradient of the ranking is -1 with respect to p_w and +1 with respect to p_l while the pair
    is in the wrong order, and 0 once it is not; imitation adds -lam to the first throughout.

    Use it as a baseline that is mostly fine-tuning on the chosen responses. `lam` is its strength:
    larger means less ranking and more imitation.

    Watch: ranking asks for no margin, so that it falls silent as soon as the order is right.

    >>> import torch
    >>> p, one = -torch.ones(1), torch.ones(1)
    >>> rrhf(PairLogps(p, p, p, p, one, one))
    tensor([1.])
    """
    chosen = logps.policy_chosen / logps.chosen_tokens
    rejected = logps.policy_rejected / logps.rejected_tokens
    return relu(rejected - chosen) - lam * chosen
