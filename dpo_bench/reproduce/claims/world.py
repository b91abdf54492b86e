"""A log-linear world: every response of every prompt is enumerated, so that nothing is estimated.

A policy is the reference tilted by theta . features(prompt, response), one theta for all prompts:
it generalizes over prompts as a language model does, and its reward, win rate and KL are sums.
Several worlds, drawn independently, are trained on at once: they are what intervals are over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_bench.contract import PairLogps, get_loss

WORLDS = 8
PROMPTS, RESPONSES, FEATURES = 24, 20, 8
PAIRS = 300
STEPS = 400
LEARNING_RATE = 0.05


@dataclass(frozen=True, slots=True)
class Worlds:
    """What is the same for all policies; float64 throughout.

    Attributes:
        reference: log-probs [world, prompt, response].
        features: [world, prompt, response, feature].
        gold: the reward that counts, [world, prompt, response].
        prompts: of each pair, [world, pair].
        chosen: response of each pair, [world, pair].
        rejected: response of each pair, [world, pair].
    """

    reference: Tensor
    features: Tensor
    gold: Tensor
    prompts: Tensor
    chosen: Tensor
    rejected: Tensor

    def at(self, table: Tensor, responses: Tensor) -> Tensor:
        """Entries [..., world, pair] of a table [..., world, prompt, response]."""
        rows = torch.arange(len(self.prompts))[:, None]
        return table[..., rows, self.prompts, responses]


def make_worlds(*, flips: float = 0.0, proxy: bool = False, noisy: bool = True) -> Worlds:
    """Random worlds with labeled pairs drawn from the reference.

    The proxy is linear in the first features. Gold is the proxy less a fine that grows with the
    square of how far the proxy exceeds .3; the fine is the last feature, so that a policy can
    follow gold as well as proxy. The draws are the same whatever the arguments.

    Args:
        flips: share of pairs whose label is turned round.
        proxy: label by the proxy instead of by gold.
        noisy: Bradley-Terry labels; else the better response always wins.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(WORLDS, *shape, dtype=torch.float64, generator=generator)

    plain = normal(PROMPTS, RESPONSES, FEATURES)
    reference = normal(PROMPTS, RESPONSES).log_softmax(-1)
    weights = normal(FEATURES)
    weights = 1.2 * weights / weights.norm(dim=-1, keepdim=True)
    proxy_reward = torch.einsum("wprf,wf->wpr", plain, weights)
    fine = torch.relu(proxy_reward - 0.3) ** 2
    gold = proxy_reward - 0.6 * fine
    prompts = torch.randint(PROMPTS, (WORLDS, PAIRS), generator=generator)
    rows = torch.arange(WORLDS)[:, None]
    odds = reference.exp()[rows, prompts].flatten(0, 1)
    drawn = torch.multinomial(odds, 2, generator=generator).view(WORLDS, PAIRS, 2)
    labels = proxy_reward if proxy else gold
    gap = labels[rows, prompts, drawn[..., 0]] - labels[rows, prompts, drawn[..., 1]]
    dice = torch.rand(2, WORLDS, PAIRS, dtype=torch.float64, generator=generator)
    first = (dice[0] < gap.sigmoid()) if noisy else gap > 0
    first = first ^ (dice[1] < flips)
    return Worlds(
        reference=reference,
        features=torch.cat([plain, fine[..., None]], dim=-1),
        gold=gold,
        prompts=prompts,
        chosen=torch.where(first, drawn[..., 0], drawn[..., 1]),
        rejected=torch.where(first, drawn[..., 1], drawn[..., 0]),
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A loss with its strength and, for some, label smoothing."""

    loss: str
    beta: float
    label_smoothing: float | None = None

    def losses(self, logps: PairLogps) -> Tensor:
        """Of each pair, through the registry."""
        smoothing = self.label_smoothing
        more = {} if smoothing is None else {"label_smoothing": smoothing}
        return get_loss(self.loss)(logps, beta=self.beta, **more)


@dataclass(frozen=True, slots=True)
class Measured:
    """A trained policy in every world, exactly; all [world].

    Attributes:
        reward: expected gold reward.
        kl: KL(policy || reference), nats, mean over prompts.
        win_rate: chance to beat the reference's response to the same prompt, ties half.
        chosen_logratio: mean log-ratio of the chosen responses, nats.
    """

    reward: Tensor
    kl: Tensor
    win_rate: Tensor
    chosen_logratio: Tensor


def train(worlds: Worlds, candidates: Sequence[Candidate]) -> list[Tensor]:
    """Log-probs [world, prompt, response] of each candidate, after full-batch Adam from theta 0."""
    shape = (len(candidates), WORLDS, FEATURES + 1)
    theta = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=LEARNING_RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        logps = policies(worlds, theta)
        chosen, rejected = worlds.at(logps, worlds.chosen), worlds.at(logps, worlds.rejected)
        losses = [
            one.losses(_pairs(worlds, chosen[index], rejected[index]))
            for index, one in enumerate(candidates)
        ]
        torch.stack(losses).sum().div(PAIRS).backward()
        optimizer.step()
    return list(policies(worlds, theta.detach()))


def policies(worlds: Worlds, theta: Tensor) -> Tensor:
    """[candidate, world, feature] -> log-probs [candidate, world, prompt, response]."""
    tilt = torch.einsum("wprf,cwf->cwpr", worlds.features, theta)
    return (worlds.reference + tilt).log_softmax(-1)


def _pairs(worlds: Worlds, chosen: Tensor, rejected: Tensor) -> PairLogps:
    """From one policy's log-probs [world, pair]."""
    one = torch.ones(worlds.prompts.numel(), dtype=torch.float64)
    return PairLogps(
        policy_chosen=chosen.flatten(),
        policy_rejected=rejected.flatten(),
        reference_chosen=worlds.at(worlds.reference, worlds.chosen).flatten(),
        reference_rejected=worlds.at(worlds.reference, worlds.rejected).flatten(),
        chosen_tokens=one,
        rejected_tokens=one,
    )


def measure(worlds: Worlds, policy: Tensor) -> Measured:
    """Everything about a policy [world, prompt, response], by enumeration."""
    p, q, gold = policy.exp(), worlds.reference.exp(), worlds.gold
    better = (gold[..., :, None] > gold[..., None, :]).double()
    better += 0.5 * (gold[..., :, None] == gold[..., None, :])
    ratio = policy - worlds.reference
    return Measured(
        reward=(p * gold).sum(-1).mean(-1),
        kl=(p * ratio).sum(-1).mean(-1),
        win_rate=torch.einsum("wpr,wps,wprs->wp", p, q, better).mean(-1),
        chosen_logratio=worlds.at(ratio, worlds.chosen).mean(-1),
    )


def optimal_rewards(worlds: Worlds, kl: Tensor) -> Tensor:
    """The largest expected gold reward at these mean KLs (nats): [world] -> [world].

    The reference tilted by gold / temperature, one temperature for all prompts of a world, found by
    bisection; from the KL's upper end on it is the best response's reward.
    """
    low, high = torch.full_like(kl, -40.0), torch.full_like(kl, 12.0)
    for _ in range(70):
        middle = (low + high) / 2
        policy = _tilted(worlds, middle)
        above = (policy.exp() * (policy - worlds.reference)).sum(-1).mean(-1) > kl
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (_tilted(worlds, high).exp() * worlds.gold).sum(-1).mean(-1)


def _tilted(worlds: Worlds, log_inverse: Tensor) -> Tensor:
    return (worlds.reference + log_inverse.exp()[:, None, None] * worlds.gold).log_softmax(-1)
