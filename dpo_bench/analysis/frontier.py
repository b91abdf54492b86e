"""The best reward that any policy could have at a given KL to the reference, estimated.

The policy that maximizes E[reward] - beta KL(policy || reference) is the reference tilted by
exp(reward / beta) (Rafailov et al. 2023, arXiv:2305.18290, eq. 4). With K samples per prompt the
tilt is a softmax over them, w: reward = sum w r and KL = ln K - entropy(w). One temperature beta
serves all prompts, which makes the mean reward the largest at the mean KL.

This plain estimate is too low: it knows only K responses. Its bias is of order 1/K, and the
jackknife over samples (Quenouille 1956) takes that order away. With A = ln mean exp(r / beta) the
two curves differ by beta times the correction of A, which tells how far they can be trusted. The
curve ends at KL = ln K - 1.2, or before, where the correction exceeds .05 of the reward's standard
deviation within a prompt, or where even the best samples alone do not cost more (few distinct
rewards). It is never continued.

Bias in standard deviations of the reward, corrected and plain, where the frontier is exact (128
prompts with 400 responses each; 160 estimates, standard error .001-.002, log-normal .009):

    rewards      K     KL .5          KL 1           KL 2           end    bias there
    saturating    16   +.002  -.033                                  .8    +.003
    saturating    64   +.001  -.008   +.001  -.012   +.001  -.026   2.9    -.001
    saturating   256    .000  -.002    .000  -.003    .000  -.007   4.3    -.003
    normal        16   -.004  -.051                                  .5    -.004
    normal        64   -.002  -.014   -.003  -.030                  1.7    -.011
    normal       256    .000  -.003    .000  -.007   -.001  -.020   3.5    -.010
    log-normal    64                                                 .2    -.063
    log-normal   256                                                 .5    -.055

A saturating reward behaves like a sentiment score, a normal one like a reward model's. Where the
tail is as heavy as the log-normal's, the best responses are not among K and nothing can be said.

**With policies.** The responses of policies carry the curve on (`tilting`), where they know of
rewards that K samples of the reference do not show. Then it may pass KL = ln K - 1.2 as long as the
jackknife adds at most .25 to A; the tolerance of .05 stays. Their curve is taken only where it
reaches farther than the reference's own, and agrees with that one where it ends: else, and where
log-ratios are not known, nothing changes. How far that is depends on how near some policies come to
the optimum. Six policies with two responses to each of 128 prompts, at mean KLs of .25 to 4, that
learned a reward of this correlation with the true one (in the second world they reach that share of
the best gain); mean end, bias there and largest bias anywhere below, in standard deviations of the
reward (16 estimates, standard error .002-.010; `python -m benchmarks.calibration.frontier_cases`):

    rewards     K   none             .6               .8               .9
    saturating  16   .8 +.004 +.004  1.3 -.024 -.010  1.6 -.011 -.003  1.8 -.012 -.003
    moved       16   .6 -.016 -.014  1.0 -.032 -.021  1.5 -.028 -.020  2.4 -.023 -.013
    normal      16   .6 -.012 -.010  1.0 -.024 -.018  1.4 -.009 -.007  2.3 -.019 -.009
    saturating  64  2.9 +.001 +.004  2.9 +.001 +.004  2.9 -.002 +.003  2.9 -.001 +.003
    moved       64  1.6 -.016 -.011  1.7 -.026 -.014  2.2 -.027 -.015  3.1 -.029 -.011
    normal      64  1.6 -.014 -.009  1.7 -.028 -.012  2.1 -.021 -.012  2.9 -.011 -.006

Log-normal rewards stay out of reach: the curve ends at KL .2 as before, and is not to be trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array, bootstrap, bootstrap_each
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.tilting import PolicySamples, Tilt, Tilting

MARGIN = 1.2
"""nats below ln K where the curve ends at the latest"""

TOLERANCE = 0.05
"""largest correction of the reward, in standard deviations within a prompt, that is trusted"""

LARGEST_GAIN = 0.25
"""largest correction of ln Z, nats, that is trusted beyond ln K - `MARGIN`"""

POINTS = 65
"""points of the drawn curve, evenly in sqrt(KL)"""

_BEYOND = 8
"""points computed beyond its end, where the mean KL of a resample may lie"""


class Frontier:
    """The estimated optimal frontier: each prompt's KL and reward along common temperatures.

    Both are corrected by the jackknife: unbiased in the mean, for a single prompt only noisy.

    Args:
        rewards: [prompts, K], rewards of K samples of the reference for each prompt.
        policies: responses of policies to the same prompts, in their order; None without.

    Attributes:
        temperatures: [points], in units of reward, falling from infinity (the reference).
        kl: [prompts, points], nats per sequence.
        reward: [prompts, points].
        valid_kl: the mean KL where the curve ends, nats; 0 when rewards are constant or K < 4.
        effective: effective number of responses per prompt there (`tilting.Tilt`).
        policies: how many policies count there; 0 where the reference's own samples reach as far.

    Raises:
        ValueError: a reward is missing or infinite, or there are none; or the policies have other
            prompts.
    """

    temperatures: Array
    kl: Array
    reward: Array
    valid_kl: float
    effective: float
    policies: int

    def __init__(self, rewards: ArrayLike, policies: PolicySamples | None = None) -> None:
        ordered = np.sort(_checked(rewards), axis=1)
        if policies is not None and policies.rewards.shape[1] != len(ordered):
            raise ValueError(
                f"the reference has {len(ordered)} prompts, the policies"
                f" {policies.rewards.shape[1]}"
            )
        curve = _estimated(ordered, policies)
        self.temperatures, self.kl, self.reward = curve.temperatures, curve.kl, curve.reward
        self.valid_kl, self.effective, self.policies = curve.end, curve.effective, curve.policies

    def table(self, weights: Array) -> pd.DataFrame:
        """The curve to draw, within its valid range.

        Args:
            weights: [resamples, prompts] from `statistics.resample_weights`.

        Returns:
            columns kl (nats), reward, reward_low, reward_high (95%, at that KL) and temperature,
            in order of kl; the first row is the reference itself.
        """
        levels = self.kl[:, :POINTS].mean(axis=0)

        def rewards(means: Array) -> Array:
            return np.stack([self.read(means, level) for level in levels], axis=1)

        estimates = bootstrap_each(rewards, self.columns, weights)
        return pd.DataFrame(
            {
                "kl": levels,
                "reward": [estimate.value for estimate in estimates],
                "reward_low": [estimate.low for estimate in estimates],
                "reward_high": [estimate.high for estimate in estimates],
                "temperature": self.temperatures[:POINTS],
            }
        )

    def covers(self, kl: float) -> bool:
        """Whether a mean KL (nats) lies in the valid range."""
        return -1e-9 <= kl <= self.valid_kl + 1e-9

    def reward_at(self, kl: float) -> float:
        """The optimal mean reward at a mean KL (nats); NaN outside the valid range."""
        if not self.covers(kl):
            return math.nan
        return float(self.read(self.columns.mean(axis=0, keepdims=True), kl)[0])

    def gap(
        self, policy_reward: ArrayLike, policy_kl: ArrayLike, weights: Array
    ) -> Estimate | None:
        """How much better the optimal policy of the same KL is: its reward minus the policy's.

        Frontier, reward and KL are all re-estimated in every resample, over the same prompts.

        Args:
            policy_reward: [prompts], means over the policy's samples.
            policy_kl: [prompts], nats per sequence.
            weights: [resamples, prompts] from `statistics.resample_weights`.

        Returns:
            the gap, or None where the policy's mean KL is outside the valid range.

        Raises:
            ValueError: a value is missing or infinite, or the prompts are not the frontier's.
        """
        policy = np.column_stack([policy_reward, policy_kl]).astype(np.float64)
        if len(policy) != len(self.kl):
            raise ValueError(f"the frontier has {len(self.kl)} prompts, the policy {len(policy)}")
        if not np.isfinite(policy).all():
            raise ValueError("a reward or KL of the policy is missing or infinite")
        if not self.covers(float(policy[:, 1].mean())):
            return None

        def difference(means: Array) -> Array:
            return self.read(means[:, 2:], means[:, 1]) - means[:, 0]

        return bootstrap(difference, np.hstack([policy, self.columns]), weights)

    def values_at(self, kl: float) -> Array:
        """What each prompt adds to the optimal mean reward at a mean KL (nats): [prompts].

        Their mean is `reward_at`. To first order the optimum at a KL is linear in the prompts'
        rewards and KLs, so that the spread of these values is that of the optimum.

        Raises:
            ValueError: the KL is outside the valid range.
        """
        if not self.covers(kl):
            raise ValueError(f"the frontier ends at KL {self.valid_kl:.3g}")
        root = np.sqrt(np.maximum(np.maximum.accumulate(self.kl.mean(axis=0)), 0))
        right = int(np.clip((root < math.sqrt(max(kl, 0.0))).sum(), 1, max(len(root) - 1, 1)))
        if len(root) == 1:
            return np.asarray(self.reward[:, 0])
        left, width = right - 1, float(root[right] - root[right - 1])
        share = (math.sqrt(max(kl, 0.0)) - float(root[left])) / width if width > 0 else 0.0
        rise = float(self.reward[:, right].mean() - self.reward[:, left].mean())
        slope = rise / (float(self.kl[:, right].mean() - self.kl[:, left].mean()) or math.inf)
        own = [
            self.reward[:, at] - slope * (self.kl[:, at] - self.kl[:, at].mean())
            for at in (left, right)
        ]
        return np.asarray(own[0] * (1 - share) + own[1] * share)

    @property
    def columns(self) -> Array:
        """[prompts, 2 points]: KLs, then rewards, whose means over prompts make the curve."""
        return np.hstack([self.kl, self.reward])

    def read(self, means: Array, level: float | Array) -> Array:
        """The reward [rows] at one level, or a level per row, of curves [rows, 2 points].

        Linear in sqrt(KL), in which a frontier starts as a straight line.
        """
        return _read(means, level)


def best_of_n(rewards: ArrayLike, weights: Array) -> pd.DataFrame:
    """The reward of taking the best of n reference samples, against its KL to the reference.

    The expected maximum of n of the K samples drawn without replacement, which is unbiased: the
    j-th smallest is the maximum with probability C(j - 1, n - 1) / C(K, n). The KL is
    ln n - (n - 1)/n: exact where no two responses share a reward, an upper bound where some do
    (Beirami et al. 2024, arXiv:2401.01879, theorem 3.1).

    Args:
        rewards: [prompts, K], rewards of K samples of the reference for each prompt.
        weights: [resamples, prompts] from `statistics.resample_weights`.

    Returns:
        columns n (1, 2, 4, ..., K), kl (nats), reward, reward_low, reward_high (95%).

    Raises:
        ValueError: a reward is missing or infinite, or there are none.
    """
    ordered = np.sort(_checked(rewards), axis=1)
    samples = ordered.shape[1]
    sizes = [2**power for power in range(samples.bit_length()) if 2**power < samples] + [samples]
    shares = [[math.comb(j, n - 1) / math.comb(samples, n) for j in range(samples)] for n in sizes]
    best = np.einsum("ps,ns->pn", ordered, np.array(shares))
    estimates = bootstrap_each(lambda means: means, best, weights)
    return pd.DataFrame(
        {
            "n": sizes,
            "kl": [math.log(n) - (n - 1) / n for n in sizes],
            "reward": [estimate.value for estimate in estimates],
            "reward_low": [estimate.low for estimate in estimates],
            "reward_high": [estimate.high for estimate in estimates],
        }
    )


def _checked(rewards: ArrayLike) -> Array:
    table = np.ascontiguousarray(rewards, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"rewards must be [prompts, samples], not {list(table.shape)}")
    lost = int((~np.isfinite(table)).sum())
    if lost:
        raise ValueError(f"{lost} of {table.size} reference rewards are missing or infinite")
    return table


def _correction(tilt: Tilt, inverse: float) -> float:
    """What the jackknife adds to the reward at a KL: beta times what it adds to ln Z."""
    return tilt.gain / inverse if inverse else 0.0


def _excess(tilting: Tilting, tilt: Tilt, inverse: float) -> float:
    """How far a tilt is beyond what can be trusted; below 0 where it can."""
    reach = float(tilt.kl.mean()) / (math.log(tilting.rewards.shape[1]) - MARGIN)
    if tilting.policies is not None:
        reach = min(reach, tilt.gain / LARGEST_GAIN)
    return max(reach, _correction(tilt, inverse) / TOLERANCE) - 1


def _inverse_temperatures(tilting: Tilting) -> Array:
    """Inverse temperatures of the curve: POINTS evenly in sqrt(KL) to its end, and some beyond."""
    from scipy.optimize import brentq

    def excess(inverse: float) -> float:
        return _excess(tilting, tilting.at(inverse), inverse)

    grid, kl, over = _scanned(tilting)
    root = np.sqrt(np.maximum(np.maximum.accumulate(kl), 0))
    end = float(grid[-1])
    if over:
        end = float(brentq(excess, grid[over - 1], grid[over], rtol=1e-12))
    inside = np.linspace(0, float(np.interp(end, grid, root)), POINTS)
    beyond = inside[-1] + inside[1] * np.arange(1, _BEYOND + 1)
    beyond = np.interp(beyond[beyond <= root[-1]], root, grid)
    return np.concatenate([np.interp(inside[:-1], root, grid), [end], beyond])


def _scanned(tilting: Tilting) -> tuple[Array, Array, int]:
    """Inverse temperatures to where the curve ends and a little beyond.

    Returns:
        the grid, the mean KL along it, and the index of the first that is not trusted; 0: all are.
    """
    grid, kl, over = [0.0], [float(tilting.at(0.0).kl.mean())], 0
    for inverse in np.geomspace(0.01, 1000, 161):
        tilt = tilting.at(float(inverse))
        level = float(tilt.kl.mean())
        # where the KL stops to rise only the best samples are left: a colder tilt is the same one
        if len(grid) > 1 and level - kl[-1] <= 1e-3 * level:
            break
        grid.append(float(inverse))
        kl.append(level)
        if not over and _excess(tilting, tilt, float(inverse)) >= 0:
            over = len(grid) - 1
        if over and level > kl[over] * (1 + (_BEYOND + 1) / POINTS) ** 2:
            break
    return np.array(grid), np.array(kl), over


@dataclass(frozen=True, eq=False)
class _Curve:
    """A curve along temperatures; see `Frontier`."""

    temperatures: Array
    kl: Array
    reward: Array
    end: float
    effective: float
    policies: int


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Tilts of samples whose rewards are ``top`` + ``scale`` x what is tilted.

    Attributes:
        tilting: of rewards in standard deviations within a prompt, the prompt's largest at 0.
        top: [prompts, 1], in units of reward.
        scale: standard deviation within a prompt, in units of reward.
    """

    tilting: Tilting
    top: Array
    scale: float

    @classmethod
    def of(cls, rewards: Array, policies: PolicySamples | None = None) -> _Estimate:
        """From the reference's samples [prompts, K], sorted, and the policies'."""
        top, scale = rewards[:, -1:], math.sqrt(rewards.var(axis=1).mean())
        if policies is None:
            return cls(Tilting((rewards - top) / scale), top, scale)
        top = np.maximum(top, policies.rewards.max(axis=(0, 2))[:, None])
        pooled = PolicySamples((policies.rewards - top) / scale, policies.logratio)
        return cls(Tilting((rewards - top) / scale, pooled), top, scale)

    def curve(self) -> _Curve:
        """The curve to where it can be trusted."""
        inverse = _inverse_temperatures(self.tilting)
        tilts = [self.tilting.at(one) for one in inverse]
        kl = np.stack([tilt.kl for tilt in tilts], axis=1)
        shares = self.tilting.shares(inverse[POINTS - 1])
        return _Curve(
            temperatures=np.array([self.scale / one if one else math.inf for one in inverse]),
            kl=kl,
            reward=self.top + self.scale * np.stack([tilt.reward for tilt in tilts], axis=1),
            end=float(kl[:, POINTS - 1].mean()),
            effective=tilts[POINTS - 1].effective,
            policies=int((shares > 0).any(axis=1).sum()),
        )

    def best(self, temperature: float) -> Array:
        """The largest reward - temperature x KL of each prompt [prompts], in units of reward."""
        tilt = self.tilting.at(self.scale / temperature)
        return np.asarray(
            self.top[:, 0] + self.scale * tilt.reward - temperature * tilt.kl, dtype=np.float64
        )


def _estimated(rewards: Array, policies: PolicySamples | None) -> _Curve:
    """The curve of the reference's sorted samples [prompts, K], by policies' if these extend it."""
    samples = rewards.shape[1]
    if samples < 4 or not (rewards < rewards[:, -1:]).any():
        mean = rewards.mean(axis=1, keepdims=True)
        return _Curve(np.array([math.inf]), np.zeros_like(mean), mean, 0.0, float(samples), 0)
    alone = _Estimate.of(rewards)
    curve = alone.curve()
    if policies is None:
        return curve
    pooled = _Estimate.of(rewards, policies)
    wider = pooled.curve()
    extended = wider.policies > 0 and wider.end > curve.end
    return wider if extended and _agree(alone, pooled, curve.temperatures[POINTS - 1]) else curve


def _agree(alone: _Estimate, pooled: _Estimate, temperature: float) -> bool:
    """Whether policies leave the curve where it was at the end that it has without them.

    At one temperature the reward at a KL differs by as much as the largest reward - temperature x
    KL. Two standard errors are allowed on top of half of the `TOLERANCE`.
    """
    difference = (pooled.best(temperature) - alone.best(temperature)) / alone.scale
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return abs(float(difference.mean())) <= TOLERANCE / 2 + 2 * error


def _read(means: Array, level: float | Array) -> Array:
    """The reward [rows] at a level of curves [rows, 2 points]: KLs, then rewards."""
    points = means.shape[1] // 2
    root = np.sqrt(np.maximum(np.maximum.accumulate(means[:, :points], axis=1), 0))
    wanted = np.broadcast_to(np.sqrt(np.maximum(level, 0)), (len(means),))
    rows = np.arange(len(means))
    right = np.clip((root < wanted[:, None]).sum(axis=1), min(1, points - 1), points - 1)
    left = np.maximum(right - 1, 0)
    width = root[rows, right] - root[rows, left]
    share = np.divide(wanted - root[rows, left], width, out=np.zeros_like(width), where=width > 0)
    share = np.clip(share, 0, 1)
    reward = means[:, points:]
    return np.asarray(reward[rows, left] * (1 - share) + reward[rows, right] * share)
