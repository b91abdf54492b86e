"""Contrastive preference optimization."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "cpo",
    family="reference-free",
    paper="Xu et al. 2024, arXiv:2401.08417, NLL averaged over tokens as in the authors' code",
    normalization="sum",
    grid=(0.01, 0.03, 0.1, 0.3, 1.0),
    needs_reference=False,
    kl_by=("beta", "alpha"),
)
def cpo(
    logps: PairLogps,
    beta: Positive = 0.1,
    alpha: Annotated[float, Range(low=0)] = 1.0,
) -> Tensor:
    """DPO without a reference plus imitation: -log sigmoid(beta (p_w - p_l)) - alpha p_w/n_w.

    p_w and p_l are the policy's log-probs of chosen and rejected (nats, summed over the response),
    n_w the chosen response's tokens. The paper writes the second term as the log-probability of the
    whole response; the authors' code, which its results come from, averages it over tokens, and so
    does this. At alpha = 0 it is DPO with a uniform reference.

    The gradient is -beta s - alpha/n_w with respect to p_w and beta s with respect to p_l, s the
    sigmoid of -beta (p_w - p_l): the preference fades once a pair is won, imitation never does.

    Use it when chosen responses are good enough to be imitated and a reference is too dear.

    Watch: p_w - p_l starts from the difference in length as much as in quality: where rejected
    responses are shorter, the loss begins far on the losing side.

    >>> import torch
    >>> p, one = -torch.ones(1), torch.ones(1)
    >>> cpo(PairLogps(p, p, p, p, one, one))  # ln 2 + 1
    tensor([1.6931])
    """
    preference = -logsigmoid(beta * (logps.policy_chosen - logps.policy_rejected))
    return preference - alpha * logps.policy_chosen / logps.chosen_tokens
