"""Sequence likelihood calibration with human feedback."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import relu

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "slic",
    family="reference-free",
    paper="Zhao et al. 2023, arXiv:2305.10425, eq. 1, regularizer averaged over tokens",
    normalization="sum",
    grid=(1.0, 3.0, 10.0, 30.0, 100.0),
    needs_reference=False,
    kl_by=("delta", "lam"),
)
def slic(
    logps: PairLogps,
    delta: Positive = 1.0,
    lam: Annotated[float, Range(low=0)] = 0.1,
) -> Tensor:
    """Hinge on log-probs plus imitation: max(0, delta - (p_w - p_l)) - lam p_w/n_w.

    p_w and p_l are the policy's log-probs of chosen and rejected (nats, summed over the response),
    n_w the chosen response's tokens. The chosen response serves as the target of the cross-entropy
    regularizer, which is averaged over its tokens as cross-entropy usually is. `hinge` has a
    reference and no imitation.

    The gradient is -1 with respect to p_w and +1 with respect to p_l until the chosen response is
    ahead by `delta` nats, and 0 from there on; imitation adds -lam/n_w to the first throughout.

    Use it as the classical baseline without a reference. `delta` is its strength: larger goes
    further, once it exceeds how much p_w - p_l differs between pairs, which is tens of nats.

    Watch: p_w - p_l starts from the difference in length as much as in quality, and a pair far on
    the losing side pulls at full strength.

    >>> import torch
    >>> p, one = -torch.ones(1), torch.ones(1)
    >>> slic(PairLogps(p, p, p, p, one, one), delta=1.0, lam=0.1)  # 1 + 0.1
    tensor([1.1000])
    """
    calibration = relu(delta - (logps.policy_chosen - logps.policy_rejected))
    return calibration - lam * logps.policy_chosen / logps.chosen_tokens
