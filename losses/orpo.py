"""Odds-ratio preference optimization."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, expm1
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Range, register

CERTAIN = -1e-6
"""Nats per token from which on a response counts as certain: the odds of a probability of 1 are
infinite, and float32 rounds to 1."""


def _continued(logps: PairLogps, lam: float) -> Tensor:  # noqa: ARG001
    chosen = logps.policy_chosen / logps.chosen_tokens
    rejected = logps.policy_rejected / logps.rejected_tokens
    return (chosen > CERTAIN) | (rejected > CERTAIN)


@register(
    "orpo",
    family="reference-free",
    paper="Hong et al. 2024, arXiv:2403.07691, eq. 6",
    normalization="mean",
    grid=(0.1, 0.3, 1.0, 3.0, 10.0),
    needs_reference=False,
    continued=_continued,
)
def orpo(logps: PairLogps, lam: Annotated[float, Range(low=0)] = 0.1) -> Tensor:
    """Imitation plus an odds ratio: -p_w - lam log sigmoid(log odds_w - log odds_l).

    p_w and p_l are the policy's log-probs per token of chosen and rejected (nats), over response
    tokens only; odds = P / (1 - P) with P = e^p, the geometric mean probability of a token. In the
    odds, p is held at -1e-6 or below, since float32 knows probabilities of exactly 1.

    The gradient of the odds term is -lam s / (1 - P_w) with respect to p_w and lam s / (1 - P_l)
    with respect to p_l, s the sigmoid of minus the log odds ratio; imitation adds -1 to the first.

    Use it to fine-tune and align a base model in one go, without a reference. `lam` is its
    strength: larger goes further.

    Watch: imitation dominates at the paper's `lam`, so that preferences move little; 1 / (1 - P_l)
    is large when a rejected response has become nearly certain.

    >>> import torch
    >>> p, one = -torch.ones(1), torch.ones(1)
    >>> orpo(PairLogps(p, p, p, p, one, one), lam=0.1)  # 1 + 0.1 ln 2
    tensor([1.0693])
    """
    chosen = logps.policy_chosen / logps.chosen_tokens
    rejected = logps.policy_rejected / logps.rejected_tokens
    return -chosen - lam * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(logp_per_token: Tensor) -> Tensor:
    certain = logp_per_token.clamp(max=CERTAIN)
    return certain - (-expm1(certain)).log()
