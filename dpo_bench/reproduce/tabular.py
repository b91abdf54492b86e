"""Policies over a handful of actions, trained through the registry's losses.

A policy is a softmax of free logits without context, a response one action of one token: what a
loss sees of a pair is exact, and optima can be reached to the last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpo_bench.contract import PairLogps, get_loss

Pairs = Sequence[tuple[int, int]]
"""Preferences between actions, winner first."""


def pair_logps(policy: Tensor, reference: Tensor, pairs: Pairs) -> PairLogps:
    """What a loss sees of these preferences.

    Args:
        policy: log-probs [..., action], nats.
        reference: log-probs, broadcast against the policy's.
        pairs: preferences between actions.

    Returns:
        fields of shape [... x pair], flattened; the pairs vary fastest.
    """
    policy, reference = torch.broadcast_tensors(policy, reference)
    winners, losers = torch.tensor(pairs).T
    one = torch.ones_like(policy[..., winners]).flatten()
    return PairLogps(
        policy_chosen=policy[..., winners].flatten(),
        policy_rejected=policy[..., losers].flatten(),
        reference_chosen=reference[..., winners].flatten(),
        reference_rejected=reference[..., losers].flatten(),
        chosen_tokens=one,
        rejected_tokens=one,
    )


@dataclass(frozen=True, slots=True)
class Setting:
    """A loss at one strength."""

    loss: str
    beta: float

    @property
    def label(self) -> str:
        """As papers on IPO write it, e.g. ``IPO tau 0.1``."""
        return f"{self.loss.removesuffix('_sum').upper()} tau {self.beta:g}"

    def mean_loss(self, logits: Tensor, pairs: Pairs, weights: Tensor) -> Tensor:
        """Weighted mean loss against the uniform reference: [..., action] -> [...].

        Args:
            logits: of the policies.
            pairs: preferences between actions.
            weights: of the pairs, broadcast against [..., pair].
        """
        policy = logits.log_softmax(-1)
        reference = torch.zeros_like(policy).log_softmax(-1)
        losses = get_loss(self.loss)(pair_logps(policy, reference, pairs), beta=self.beta)
        return (losses.view(*logits.shape[:-1], len(pairs)) * weights).sum(-1)


def train_by_adam(
    settings: Sequence[Setting],
    pairs: Pairs,
    *,
    updates: int,
    seeds: int = 10,
    batch: int = 9,
    learning_rate: float = 0.01,
    actions: int = 3,
    every: int = 20,
) -> Tensor:
    """Train one policy per setting and seed from uniform, all at once.

    Each update averages the loss over a mini-batch drawn with replacement; the draws of a seed are
    the same for every setting. Adam works element by element, so that one optimizer over all
    policies does what one for each would do.

    Args:
        settings: losses with their strengths.
        pairs: preferences between actions.
        updates: steps of Adam.
        seeds: number of policies per setting.
        batch: preferences per update.
        learning_rate: Adam's, constant.
        actions: number of actions.
        every: updates between two records.

    Returns:
        action probabilities [record, setting, seed, action], the first after ``every`` updates.
    """
    draws = [np.random.Generator(np.random.PCG64(seed)) for seed in range(seeds)]
    share = [1 / len(pairs)] * len(pairs)
    counts = np.stack([draw.multinomial(batch, share, size=updates) for draw in draws], axis=1)
    weights = torch.from_numpy(counts) / batch
    logits = torch.zeros(len(settings), seeds, actions, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    records = []
    for step in range(updates):
        optimizer.zero_grad()
        losses = [
            setting.mean_loss(logits[index], pairs, weights[step])
            for index, setting in enumerate(settings)
        ]
        torch.stack(losses).sum().backward()
        optimizer.step()
        if (step + 1) % every == 0:
            records.append(logits.detach().softmax(-1))
    return torch.stack(records)


def minimize(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Minimize a smooth function of logits [action] as far as fp64 goes.

    L-BFGS finds the basin, Newton's method the digits. Adding a constant to all logits changes
    nothing, hence the pseudo-inverse.
    """
    logits = start.clone().double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(logits)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = logits.detach()
    for _ in range(8):
        slope = gradient(objective, found)
        curvature = torch.autograd.functional.hessian(objective, found)
        found = found - torch.linalg.pinv(curvature, rtol=1e-10, hermitian=True) @ slope
    return found - found.mean()


def gradient(objective: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient of a function of logits at a point."""
    point = at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(point).sum(), point)
    return slope


def total_variation(first: Tensor, second: Tensor) -> float:
    """Half the summed distance of two distributions [action]."""
    return float((first - second).abs().sum() / 2)
