"""Simple preference optimization."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "simpo",
    family="reference-free",
    paper="Meng et al. 2024, arXiv:2405.14734, eq. 6",
    normalization="mean",
    grid=(0.3, 1.0, 2.0, 5.0, 10.0),
    needs_reference=False,
    kl_by=("beta", "gamma_beta_ratio"),
)
def simpo(
    logps: PairLogps,
    beta: Positive = 2.0,
    gamma_beta_ratio: Annotated[float, Range(low=0)] = 0.5,
) -> Tensor:
    """Logistic loss on log-probs per token: -log sigmoid(beta (p_w/n_w - p_l/n_l) - gamma).

    p_w and p_l are the policy's log-probs of chosen and rejected (nats), n_w and n_l their token
    counts. The target margin gamma is `gamma_beta_ratio` x `beta`, so that the ratio is a margin in
    nats per token; some public code takes gamma itself.

    The gradient with respect to the margin per token is -beta sigmoid(gamma - beta margin): it
    fades once a pair is won by more than the ratio.

    Use it when there is no reference to pay for; the paper used beta 2 to 10 and ratios .1 to .8.

    Watch: nothing holds the policy near where it started, so that a larger `beta` is no smaller
    step and only learning rate and number of steps bound the KL.

    >>> import torch
    >>> p, one = -torch.ones(1), torch.ones(1)
    >>> simpo(PairLogps(p, p, p, p, one, one), beta=2.0, gamma_beta_ratio=0.5)  # ln(1 + e)
    tensor([1.3133])
    """
    chosen = logps.policy_chosen / logps.chosen_tokens
    rejected = logps.policy_rejected / logps.rejected_tokens
    return -logsigmoid(beta * (chosen - rejected - gamma_beta_ratio))
