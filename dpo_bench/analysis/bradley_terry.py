"""Strengths of policies that all played each other (Bradley and Terry 1952, Biometrika 39, 324).

A policy i beats j with probability 1/(1 + exp(s_j - s_i)): strengths are log-odds, and only their
differences mean anything, so that they are centered at 0. They are fitted by maximum
likelihood, by Newton's method, to the share of a prompt's responses with which i beats j, ties a
half, summed over prompts.

Regularization: every pair that met is given one further prompt, a tie. It keeps the strength of a
policy that always wins finite (about ln 2n above an opponent whom it beat on all n prompts) and is
1 of n + 1 prompts for everybody else.

Where some policies never met the others, even by way of third ones, their strengths cannot be
compared: each such league is centered by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpo_bench.analysis.bootstrap import Array, bootstrap_each
from dpo_bench.analysis.estimate import Estimate

_STEPS = 50
_ROWS = 256
"""resamples that are fitted together"""


@dataclass(frozen=True)
class Strength:
    """One policy in its league.

    Attributes:
        name: of the policy.
        strength: log-odds against the average of its league, with a 95% interval over prompts.
        league: index of the league, from 0; policies of different leagues are not comparable.
    """

    name: str
    strength: Estimate
    league: int


def round_robin(
    names: Sequence[str], wins: Mapping[tuple[str, str], ArrayLike], weights: Array
) -> list[Strength]:
    """Fit the strengths, the strongest first within each league.

    Args:
        names: of the policies.
        wins: for each pair that met, in one order, [prompts]: the share with which the first beat
            the second on each prompt, ties a half.
        weights: [resamples, prompts] from `statistics.resample_weights`.

    Raises:
        ValueError: a pair is unknown, given twice or with itself, or a share is missing or outside
            0 to 1.
    """
    pairs = _checked_pairs(names, wins)
    found: list[Strength] = []
    for league, members in enumerate(_leagues(names, pairs)):
        met = [pair for pair in pairs if pair[0] in members]
        found += _league(league, members, met, wins, weights)
    return found


def _league(
    league: int,
    members: list[str],
    met: list[tuple[str, str]],
    wins: Mapping[tuple[str, str], ArrayLike],
    weights: Array,
) -> list[Strength]:
    prompts = weights.shape[1]
    if not met:
        return [Strength(members[0], Estimate(0.0, math.nan, math.nan, prompts), league)]
    place = {name: index for index, name in enumerate(members)}
    ends = np.array([[place[first], place[second]] for first, second in met])
    shares = np.stack([np.asarray(wins[pair], dtype=np.float64) for pair in met], axis=1)
    start = _fitted(
        _table(shares.mean(axis=0, keepdims=True), ends, len(members), prompts),
        np.zeros(len(members)),
    )[0]

    def strengths(means: Array) -> Array:
        parts = [means[row : row + _ROWS] for row in range(0, len(means), _ROWS)]
        return np.concatenate(
            [_fitted(_table(part, ends, len(members), prompts), start) for part in parts]
        )

    estimates = bootstrap_each(strengths, shares, weights)
    order = sorted(range(len(members)), key=lambda index: -estimates[index].value)
    return [Strength(members[index], estimates[index], league) for index in order]


def _table(shares: Array, ends: NDArray[np.int64], policies: int, prompts: int) -> Array:
    """Wins [rows, policies, policies] of the row over the column, each pair's tie included."""
    table = np.zeros((len(shares), policies, policies))
    table[:, ends[:, 0], ends[:, 1]] = prompts * shares + 0.5
    table[:, ends[:, 1], ends[:, 0]] = prompts * (1 - shares) + 0.5
    return table


def _fitted(table: Array, start: Array) -> Array:
    """The strengths [rows, policies] of many tables at once: Newton's method from near by.

    The likelihood is concave; a step that would be longer than one log-odds is shortened.
    """
    policies = len(start)
    strengths = np.tile(start - start.mean(), (len(table), 1))
    games = table + table.transpose(0, 2, 1)
    inside = np.arange(policies)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))
        slope = (table - games * chance).sum(axis=2)
        curve = games * chance * (1 - chance)
        # added to every entry, the constant fixes what the likelihood leaves free: the mean at 0
        bend = 1.0 - curve
        bend[:, inside, inside] += curve.sum(axis=2)
        step = np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
        longest = np.abs(step).max(axis=1, keepdims=True)
        strengths = strengths + step / np.maximum(longest, 1)
        if longest.max() < 1e-10:
            break
    return np.asarray(strengths - strengths.mean(axis=1, keepdims=True))


def _checked_pairs(
    names: Sequence[str], wins: Mapping[tuple[str, str], ArrayLike]
) -> list[tuple[str, str]]:
    for pair, shares in wins.items():
        if pair[0] == pair[1] or not set(pair) <= set(names) or pair[::-1] in wins:
            raise ValueError(f"the pair {pair} is unknown, of one policy, or given twice")
        column = np.asarray(shares, dtype=np.float64)
        if column.ndim != 1 or not ((column >= 0) & (column <= 1)).all():
            raise ValueError(f"the shares of {pair} must be [prompts], each between 0 and 1")
    return [pair for pair in itertools.permutations(names, 2) if pair in wins]


def _leagues(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The sets of policies that are linked by games, each in the order of ``names``."""
    league = {name: index for index, name in enumerate(names)}
    for first, second in pairs:
        old, new = league[second], league[first]
        league = {name: new if one == old else one for name, one in league.items()}
    return [
        [name for name in names if league[name] == index]
        for index in dict.fromkeys(league.values())
    ]
