"""Modifiers: what can be done to a loss, written ``name(loss)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from torch import Tensor, zeros_like
from torch.nn.functional import logsigmoid

from dpo_bench.contract import Loss, PairLogps, Range, register_modifier

from ._numerics import beyond_limit, expm1_or_tangent

F_DPO = "Wang et al. 2023, arXiv:2309.16240"
PairLoss = Callable[[PairLogps], Tensor]


def _needs_log_ratios(loss: Loss) -> str | None:
    """Why a divergence cannot replace a loss's log-ratios; None when it is made of them alone."""
    if not loss.needs_reference:
        return "it has no log-ratios, for it ignores the reference"
    if loss.normalization != "sum":
        return "it works per token, and the divergence is one of whole responses"
    if set(loss.needs) - {"preference_margin"} or loss.batch_coupled:
        return "it is made of more than the pair's own log-ratios"
    if set(loss.modifiers) & {"forward_kl", "js", "alpha"}:
        return "its log-ratios are replaced already"
    if not loss.is_of_log_ratios:
        return "it reads log-probabilities besides its log-ratios"
    return None


def _replaced(logps: PairLogps, link: Callable[[Tensor], Tensor]) -> PairLogps:
    """The record whose log-ratios u are link(u)."""
    zero = zeros_like(logps.reference_chosen)
    return replace(
        logps,
        policy_chosen=link(logps.chosen_logratio),
        policy_rejected=link(logps.rejected_logratio),
        reference_chosen=zero,
        reference_rejected=zero,
    )


def _either(logps: PairLogps, zone: Callable[[Tensor], Tensor]) -> Tensor:
    """Where it holds of either log-ratio."""
    return zone(logps.chosen_logratio) | zone(logps.rejected_logratio)


@register_modifier(
    "forward_kl",
    paper=f"{F_DPO}, table 1, forward KL",
    refuses=_needs_log_ratios,
    continued=lambda logps: _either(logps, lambda ratio: beyond_limit(-ratio)),
)
def forward_kl(base: PairLoss, logps: PairLogps) -> Tensor:
    """Forward KL as the penalty: each log-ratio u becomes 1 - exp(-u).

    f'(t) = 1 - 1/t of f(t) = t - 1 - ln t at t = e^u. A generator may be had with any c (t - 1)
    added; this is the one with f'(1) = 0, so that a log-ratio of 0 stays 0, as under the other
    divergences. Below u = -20 it follows its tangent, for it would overflow. A response that the
    policy makes less likely moves the loss exponentially, one that it makes more likely hardly: the
    policy keeps covering what the reference says.
    """
    return base(_replaced(logps, lambda ratio: -expm1_or_tangent(-ratio)))


@register_modifier("js", paper=f"{F_DPO}, table 1, Jensen-Shannon", refuses=_needs_log_ratios)
def js(base: PairLoss, logps: PairLogps) -> Tensor:
    """Jensen-Shannon divergence as the penalty: each log-ratio u becomes log sigmoid(u) + ln 2.

    f'(t) = ln(2t / (1 + t)) at t = e^u. A response can gain no more than ln 2 and lose without
    bound; at the reference the slope is half that of the log-ratio.
    """
    return base(_replaced(logps, lambda ratio: logsigmoid(ratio) + math.log(2)))


@register_modifier(
    "alpha",
    paper=f"{F_DPO}, table 1, alpha-divergence",
    refuses=_needs_log_ratios,
    continued=lambda logps, divergence_alpha: _either(
        logps, lambda ratio: beyond_limit(-divergence_alpha * ratio)
    ),
)
def alpha(
    base: PairLoss,
    logps: PairLogps,
    divergence_alpha: Annotated[float, Range(0, 1)] = 0.5,
) -> Tensor:
    """Alpha-divergence as the penalty: each log-ratio u becomes (1 - exp(-al u)) / al.

    al is `divergence_alpha`. f'(t) = (1 - t^-al) / al at t = e^u: at al = 0, taken as the limit,
    the log-ratio itself (reverse KL), at al = 1 the forward KL's. Where al u is below -20 it
    follows its tangent. Some public code calls 1 - al what is al here.
    """
    if divergence_alpha == 0:
        return base(_replaced(logps, lambda ratio: ratio))
    return base(
        _replaced(logps, lambda u: -expm1_or_tangent(-divergence_alpha * u) / divergence_alpha)
    )


def _is_coupled(loss: Loss) -> str | None:
    return "its pairs have no losses of their own" if loss.batch_coupled else None


@register_modifier(
    "wpo",
    paper="Zhou et al. 2024, arXiv:2406.11827, eq. 2, sampled alignment",
    needs=("confidence",),
    refuses=_is_coupled,
)
def wpo(base: PairLoss, logps: PairLogps) -> Tensor:
    """Weighs each pair by how likely the policy is to write it: min(1, w(chosen) w(rejected)).

    w = exp(mean over tokens of [log p(token) - log sum_v p(v)^2]), detached: 1 for a response that
    is as likely as what the policy draws on average. Off-policy pairs count less.
    """
    weight = (logps.chosen_confidence + logps.rejected_confidence).clamp(max=0).exp()
    return weight.detach() * base(logps)


@register_modifier(
    "nll",
    paper="Pang et al. 2024 (iterative RPO), arXiv:2404.19733, eq. 1",
    reads_log_probs=True,
)
def nll(
    base: PairLoss,
    logps: PairLogps,
    nll_weight: Annotated[float, Range(low=0)] = 1.0,
) -> Tensor:
    """Adds imitation of the chosen response: + `nll_weight` x -p_w / n_w.

    p_w is the policy's log-prob of the chosen response, n_w its tokens. The slope never fades.
    """
    return base(logps) - nll_weight * logps.policy_chosen / logps.chosen_tokens
