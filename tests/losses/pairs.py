"""Pairs and gradients for the tests of losses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dpo_bench import PairLogps, get_loss


def margins(*values: float) -> PairLogps:
    """Pairs of single tokens whose margins are these, all of it in the chosen log-ratio (nats)."""
    margin = torch.tensor(values, dtype=torch.float64)
    zero, one = torch.zeros_like(margin), torch.ones_like(margin)
    return PairLogps(margin, zero, zero, zero, one, one)


def gradients(name: str, logps: PairLogps, **hyperparameters: float) -> tuple[Tensor, Tensor]:
    """Gradient of each pair's loss in its chosen and its rejected policy log-prob."""
    chosen = logps.policy_chosen.clone().requires_grad_()
    rejected = logps.policy_rejected.clone().requires_grad_()
    moved = replace(logps, policy_chosen=chosen, policy_rejected=rejected)
    total = get_loss(name)(moved, **hyperparameters).sum()
    first, second = torch.autograd.grad(total, (chosen, rejected), materialize_grads=True)
    return first, second
