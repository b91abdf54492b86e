"""Pairs that show what a loss does: ordinary ones, and the far ends of what can happen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from dpo_bench.contract.record import PairLogps
from dpo_bench.contract.requirements import NEEDS

EXTREME = 1e4  # nats: further than any log-ratio of a training run that is worth going on with


def ordinary_pairs(dtype: torch.dtype = torch.float64) -> PairLogps:
    """Seven pairs with log-ratios of up to ± 4 nats, 1 to 61 tokens, no two alike.

    One has equal log-ratios, one a chosen response of a single token. Counts are integers.
    """
    chosen = [-21.13, -8.37, -40.91, -3.071, -17.77, -61.3, -2.417]
    rejected = [-19.31, -13.73, -38.17, -12.11, -17.03, -11.9, -29.83]
    chosen_logratio = [1.37, -2.71, 0.213, 0.83, 3.917, -1.19, -0.357]
    rejected_logratio = [-0.59, 1.13, 0.213, -3.79, 2.03, 0.471, -1.613]
    policy = torch.tensor([chosen, rejected], dtype=dtype)
    logratio = torch.tensor([chosen_logratio, rejected_logratio], dtype=dtype)
    tokens = torch.tensor([[12, 5, 33, 1, 9, 61, 3], [12, 9, 17, 6, 9, 4, 22]])
    return PairLogps(*policy, *(policy - logratio), *tokens)


def extreme_pairs(dtype: torch.dtype = torch.float64) -> PairLogps:
    """Every combination of log-ratios 0 and ± 1e4 nats, with 1, 7 and 10,000 tokens.

    In half of the pairs the responses that the policy prefers have log-prob 0: probability 1.
    """
    ratios = torch.tensor([-EXTREME, 0.0, EXTREME], dtype=dtype)
    tops = torch.tensor([0.0, -9.0], dtype=dtype)
    lengths = torch.tensor([1, 7, 10_000], dtype=dtype)
    grid = torch.cartesian_prod(ratios, ratios, tops, lengths, lengths)
    chosen, rejected, top, chosen_tokens, rejected_tokens = grid.T
    return PairLogps(
        policy_chosen=top + chosen.clamp(max=0),
        policy_rejected=top + rejected.clamp(max=0),
        reference_chosen=top - chosen.clamp(min=0),
        reference_rejected=top - rejected.clamp(min=0),
        chosen_tokens=chosen_tokens.long(),
        rejected_tokens=rejected_tokens.long(),
    )


def supplied(logps: PairLogps, needs: Collection[str] = tuple(NEEDS)) -> PairLogps:
    """The pairs with plausible values for what a loss needs beyond them, no two alike."""
    like = logps.policy_chosen

    def spread(first: float, last: float) -> Tensor:
        return torch.linspace(first, last, len(like)).to(like)

    known = {
        "preference_margin": spread(-0.4, 1.9),
        "chosen_confidence": spread(-1.7, 0.3),
        "rejected_confidence": spread(0.1, -2.3),
        "chosen_kl": 0.3 + 0.7 * logps.chosen_logratio.detach().abs(),
        "rejected_kl": 0.2 + 0.9 * logps.rejected_logratio.detach().abs(),
        "mismatched_logratio": spread(-0.9, 2.8),
        "mean_logratio": torch.full_like(like, 0.37).detach(),
        **_shared(logps),
    }
    wanted = [field for need in needs for field in NEEDS[need].fields]
    return replace(logps, **{field: known[field] for field in wanted})


def _shared(logps: PairLogps) -> dict[str, Tensor]:
    """Sums over the shared part: everything of a shorter response, some of a longer one."""
    fields: dict[str, Tensor] = {}
    for side, other in (("chosen", "rejected"), ("rejected", "chosen")):
        longer = getattr(logps, f"{side}_tokens") > getattr(logps, f"{other}_tokens")
        policy = getattr(logps, f"policy_{side}").detach()
        part = torch.where(longer, torch.linspace(0.3, 0.9, len(policy)).to(policy), 1.0)
        ratio = getattr(logps, f"{side}_logratio").detach()
        fields[f"policy_{side}_shared"] = part * policy
        fields[f"reference_{side}_shared"] = part * policy - part.square() * ratio
    return fields
