"""AlphaPO: SimPO with a reward of another shape."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register

from ._numerics import beyond_limit, expm1_or_tangent


def _continued(logps: PairLogps, beta: float, alpha: float, gamma_beta_ratio: float) -> Tensor:  # noqa: ARG001
    chosen = logps.policy_chosen / logps.chosen_tokens
    rejected = logps.policy_rejected / logps.rejected_tokens
    return beyond_limit(-alpha * chosen) | beyond_limit(-alpha * rejected)


@register(
    "alpha_po",
    family="reference-free",
    paper="Gupta et al. 2025, arXiv:2501.03884, the alpha reward",
    normalization="mean",
    grid=(0.25, 0.8, 2.5, 8.0, 25.0),
    needs_reference=False,
    continued=_continued,
    kl_by=("beta", "gamma_beta_ratio"),
)
def alpha_po(
    logps: PairLogps,
    beta: Positive = 2.5,
    alpha: float = 0.25,
    gamma_beta_ratio: Annotated[float, Range(low=0)] = 0.1,
) -> Tensor:
    """SimPO on (1 - e^(-alpha p)) / alpha: -log sigmoid(beta (r_w - r_l) - gamma).

    r is that transform of p, the policy's log-prob per token of chosen or rejected; gamma is
    `gamma_beta_ratio` x `beta`. As alpha tends to 0 the transform tends to p and the loss to SimPO;
    alpha = 0 is taken as that limit. Where e^(-alpha p) would exceed e^20 (80 nats per token at the
    default) the transform follows its tangent.

    The gradient with respect to p_w is -beta s e^(-alpha p_w), with respect to p_l it is
    beta s e^(-alpha p_l), s the sigmoid of gamma minus the reward margin: a positive `alpha` moves
    unlikely responses more, a negative one likely responses.

    Use it when SimPO drives the likelihood of both responses down; the shape changes how far.

    Watch: as in SimPO nothing holds the policy near where it started; at large `alpha` the gradient
    of an unlikely response explodes.

    >>> import torch
    >>> p, one = -torch.ones(1), torch.ones(1)
    >>> alpha_po(PairLogps(p, p, p, p, one, one))  # ln(1 + e^(1/4))
    tensor([0.8259])
    """
    chosen = _reward(logps.policy_chosen / logps.chosen_tokens, alpha)
    rejected = _reward(logps.policy_rejected / logps.rejected_tokens, alpha)
    return -logsigmoid(beta * (chosen - rejected - gamma_beta_ratio))


def _reward(logp_per_token: Tensor, alpha: float) -> Tensor:
    if alpha == 0:
        return logp_per_token
    return -expm1_or_tangent(-alpha * logp_per_token) / alpha
