"""Tilt the reference by exp(reward / beta) with its own responses and with those of policies.

A policy's response y tells of the reference too: its importance weight, reference(y) / policy(y) =
exp(-log-ratio), is known, also where the response was cut at the limit. So each source, the
reference or a policy, gives an unbiased estimate of Z = E_reference exp(reward / beta): the mean
over its draws of w = exp(reward / beta - log-ratio). Sources are added up with shares that sum to
1. That takes no density of one policy's responses under another policy, which the balance heuristic
needs (Veach and Guibas 1995, doi:10.1145/218380.218498; Owen and Zhou 2000,
doi:10.1080/01621459.2000.10473909), and which would cost a pass of every policy over the responses
of all others.

Response k of all policies counts as one draw: policies answer with the same random numbers, so that
their responses of one number are alike and those of several seeds often the same.

**Shares** are inverse variances of w / Z within a prompt. They are found on other prompts than
those that they serve (`FOLDS`): a source that happens to miss its large weights looks precise, and
is too low. Where a policy's w / Z has the mean m < 1 over n responses, they showed nothing of a
part 1 - m of the tilted reference, to which the policy gives a probability of about 1/n or less:
its variance is larger by n (1 - m)^2. A policy whose responses are worth less than `LEAST` of as
many of the tilted reference's own has no share, and up to `ENOUGH` a part of its share.

**Correction.** ln Z and the reward are no linear functions of these means. With a draw's share c,

    f + sum_i (1 - c_i) (f - f without draw i)

is the jackknife (Quenouille 1956) where all c are equal, and takes the bias of the second order
away where they are inverse variances.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpo_bench.analysis.bootstrap import Array

FOLDS = 4
"""parts of the prompts; the shares in one are found on the others"""

LEAST, ENOUGH = 0.05, 0.1
"""worth of a policy's response, in responses of the tilted reference, for no and for full trust"""

_PATH = np.concatenate([[0.0], np.geomspace(0.05, 1000, 141)])
"""inverse temperatures at which shares are found; between them they are interpolated"""

_Indices = NDArray[np.signedinteger]

_NOTHING = 1e-300
"""stands for a 0 whose logarithm is taken"""


@dataclass(frozen=True, eq=False, init=False)
class PolicySamples:
    """Responses of policies to the reference's prompts, sampled at temperature 1.

    Attributes:
        rewards: [policies, prompts, responses].
        logratio: [policies, prompts, responses], ln policy(y) - ln reference(y), nats per sequence.

    Raises:
        ValueError: the shapes differ, or a value is missing or infinite.
    """

    rewards: Array
    logratio: Array

    def __init__(self, rewards: ArrayLike, logratio: ArrayLike) -> None:
        tables = [np.asarray(one, dtype=np.float64) for one in (rewards, logratio)]
        if tables[0].shape != tables[1].shape or tables[0].ndim != 3 or not tables[0].size:
            raise ValueError(
                "rewards and log-ratios must both be [policies, prompts, responses],"
                f" not {list(tables[0].shape)} and {list(tables[1].shape)}"
            )
        if not all(np.isfinite(table).all() for table in tables):
            raise ValueError("a reward or log-ratio is missing or infinite: leave the policy out")
        object.__setattr__(self, "rewards", tables[0])
        object.__setattr__(self, "logratio", tables[1])


@dataclass(frozen=True, eq=False)
class Tilt:
    """A tilt of every prompt's draws.

    Attributes:
        kl: [prompts], nats.
        reward: [prompts].
        gain: mean of what the jackknife added to ln Z, nats.
        effective: effective number of draws per prompt (Kish), 1 / mean sum of squared weights.
    """

    kl: Array
    reward: Array
    gain: float
    effective: float


@dataclass(frozen=True, eq=False)
class _Draws:
    """The draws of some prompts at one inverse temperature.

    Attributes:
        rewards: [prompts, K], of the reference.
        weights: [prompts, K], ln w of these.
        policy_rewards: [policies, prompts, S].
        lifted: [policies, prompts, S], w of the policies' draws divided by exp(top).
        top: [prompts, S].
    """

    rewards: Array
    weights: Array
    policy_rewards: Array
    lifted: Array
    top: Array

    def of(self, index: _Indices) -> _Draws:
        """Those of the prompts at these indices."""
        return _Draws(
            self.rewards[index],
            self.weights[index],
            self.policy_rewards[:, index],
            self.lifted[:, index],
            self.top[index],
        )


@dataclass(frozen=True, eq=False)
class _Sums:
    """ln Z and reward of each prompt, with all draws and without each of them.

    Attributes:
        share: [prompts, draws], of each draw; the reference's come first.
        weight: [prompts, draws], self-normalized.
        partition: [prompts, 1], ln Z.
        reward: [prompts, 1].
        partitions: [prompts, draws], ln Z without the draw.
        rewards: [prompts, draws].
    """

    share: Array
    weight: Array
    partition: Array
    reward: Array
    partitions: Array
    rewards: Array


class Tilting:
    """Tilts of a reference by the exponential of its rewards, at any temperature.

    Args:
        rewards: [prompts, K], of the reference's own draws, in any unit; each prompt's largest
            (of the policies too) should be 0 or near it.
        policies: rewards in the same unit from the same origin; None: the reference alone.
    """

    def __init__(self, rewards: Array, policies: PolicySamples | None = None) -> None:
        self.rewards = rewards
        self.policies = policies
        # [policies, prompts]; the first stands for the reference alone, which is exact at 0
        self._path = [np.zeros((0 if policies is None else len(policies.rewards), len(rewards)))]

    def at(self, inverse: float) -> Tilt:
        """Tilt each prompt's draws by exp(inverse x reward), corrected by the jackknife."""
        if inverse == 0:
            mean = self.rewards.mean(axis=1)
            return Tilt(np.zeros_like(mean), mean, 0.0, float(self.rewards.shape[1]))
        sums = _sums(self._draws(inverse), self.shares(inverse))
        kept = 1 - sums.share
        gain = (kept * (sums.partition - sums.partitions)).sum(axis=1)
        reward = sums.reward[:, 0] + (kept * (sums.reward - sums.rewards)).sum(axis=1)
        return Tilt(
            kl=inverse * reward - sums.partition[:, 0] - gain,
            reward=reward,
            gain=float(gain.mean()),
            effective=float(1 / (sums.weight**2).sum(axis=1).mean()),
        )

    def shares(self, inverse: float) -> Array:
        """The shares of the policies [policies, prompts]; the rest is the reference's."""
        if self.policies is None or len(self.rewards) < 2 * FOLDS:
            return self._path[0]
        right = min(int(np.searchsorted(_PATH, inverse)), len(_PATH) - 1)
        while len(self._path) <= right:
            self._path.append(self._next(float(_PATH[len(self._path)]), self._path[-1]))
        left = max(right - 1, 0)
        part = (inverse - _PATH[left]) / (_PATH[right] - _PATH[left]) if right else 0.0
        return np.asarray((1 - part) * self._path[left] + part * self._path[right])

    def _draws(self, inverse: float) -> _Draws:
        weights = inverse * self.rewards
        if self.policies is None:
            empty = np.zeros((0, len(weights), 0))
            return _Draws(self.rewards, weights, empty, empty, empty[:0, 0])
        each = inverse * self.policies.rewards - self.policies.logratio
        top = each.max(axis=0)
        return _Draws(self.rewards, weights, self.policies.rewards, np.exp(each - top), top)

    def _next(self, inverse: float, last: Array) -> Array:
        """Each fold's shares from the other folds, whose Z is taken with their last shares."""
        draws, found = self._draws(inverse), np.zeros_like(last)
        for one in self._folds:
            others = np.setdiff1d(np.arange(len(self.rewards)), one)
            used = np.repeat(last[:, one[:1]], len(others), axis=1)
            found[:, one] = _inverse_variances(draws.of(others), used)[:, None]
        return found

    @cached_property
    def _folds(self) -> list[_Indices]:
        return [np.arange(start, len(self.rewards), FOLDS) for start in range(FOLDS)]


def _inverse_variances(draws: _Draws, last: Array) -> Array:
    """The share of each policy [policies] by inverse variances, given shares for Z."""
    sums = _sums(draws, last)
    samples, responses = draws.rewards.shape[1], draws.top.shape[1]
    own = np.exp(draws.weights - sums.partitions[:, :samples])
    together = sums.partitions[:, samples:] if last.any() else sums.partition
    # a weight of e^300 is as good as an infinite one, and its square can be taken
    relative = draws.lifted * np.exp(np.minimum(draws.top - together, 300))
    precision = _precision(relative)
    if not precision.any():
        return precision
    precision /= precision.sum()
    block = np.einsum("j,jps->ps", precision, relative)
    alone, joined = samples / _spread(own), responses / _spread(block)
    return np.asarray(precision * joined / (alone + joined))


def _spread(relative: Array) -> float:
    """The variance of w / Z about 1."""
    return max(float(((relative - 1) ** 2).mean()), 1e-12)


def _precision(relative: Array) -> Array:
    """The inverse variance of each policy [policies] from w / Z [policies, prompts, S]."""
    mean, square = relative.mean(axis=(1, 2)), (relative**2).mean(axis=(1, 2))
    seen = np.minimum(mean, 1)
    variance = square - 2 * mean + 1 + relative[0].size * (1 - seen) ** 2
    worth = np.divide(seen**2, square, out=np.zeros_like(seen), where=square > 0)
    trusted = np.clip((worth - LEAST) / (ENOUGH - LEAST), 0, 1)
    return np.asarray(trusted / np.maximum(variance, 1e-12))


def _sums(draws: _Draws, shares: Array) -> _Sums:
    weights, rewards, share = _joined(draws, shares)
    partition, relative = _normalized(weights)
    weight = relative.copy()
    reward = (relative * rewards).sum(axis=1, keepdims=True)
    rest = np.maximum(1 - relative, _NOTHING)
    partitions = partition + np.log(rest)
    left = (reward - relative * rewards) / rest
    # without the largest draw the differences would cancel: it takes sums of its own
    rows, largest = np.arange(len(weights)), weights.argmax(axis=1)
    weights[rows, largest] = -np.inf
    others, relative = _normalized(weights)
    partitions[rows, largest] = others[:, 0]
    left[rows, largest] = (relative * rewards).sum(axis=1)
    return _Sums(share, weight, partition, reward, partitions - np.log1p(-share), left)


def _joined(draws: _Draws, shares: Array) -> tuple[Array, Array, Array]:
    """Logarithm of share x w, reward and share of each prompt's draws [prompts, K + S]."""
    samples, responses = draws.rewards.shape[1], draws.top.shape[-1]
    of_policies = shares.sum(axis=0)
    share = np.repeat((1 - of_policies)[:, None] / samples, samples, axis=1)
    weights = np.log(share) + draws.weights
    if not of_policies.any():
        return weights, draws.rewards, share
    part = shares[:, :, None] / responses * draws.lifted
    total = np.maximum(part.sum(axis=0), _NOTHING)
    return (
        np.concatenate([weights, draws.top + np.log(total)], axis=1),
        np.concatenate([draws.rewards, (part * draws.policy_rewards).sum(axis=0) / total], axis=1),
        np.concatenate(
            [share, np.repeat(of_policies[:, None] / responses, responses, axis=1)], axis=1
        ),
    )


def _normalized(weights: Array) -> tuple[Array, Array]:
    """The logarithm of the sum of exp(weights) over draws [prompts, 1], and each one's part."""
    top = weights.max(axis=1, keepdims=True)
    lifted = np.exp(weights - top)
    total = lifted.sum(axis=1, keepdims=True)
    return top + np.log(total), lifted / total
