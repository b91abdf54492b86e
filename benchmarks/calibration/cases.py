"""Figures of single policies: means, win rates, strengths, length control, peaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import choix
import numpy as np
from scipy import special

from benchmarks.calibration.rows import Row, coverage, holds
from benchmarks.calibration.simulate import hump
from dpo_bench.analysis.bootstrap import (
    Array,
    bootstrap_each,
    bootstrap_mean,
    resample_weights,
    win_fraction,
)
from dpo_bench.analysis.bradley_terry import round_robin
from dpo_bench.analysis.length_control import length_controlled
from dpo_bench.analysis.overoptimization import fit_overoptimization

RESAMPLES = 600


def _weights(prompts: int, simulation: int) -> Array:
    """New resamples now and then: what they add must be in the share, drawing them costs."""
    return resample_weights(prompts, RESAMPLES, simulation // 10)


def mean(kind: str, prompts: int, simulations: int) -> Row:
    """The mean of normal or exponential rewards."""
    generator = np.random.default_rng(prompts)
    truth = 0.0 if kind == "normal" else 1.0
    held: list[bool] = []
    for seed in range(math.ceil(simulations / 100)):
        size = (prompts, 100)
        table = generator.normal(size=size) if truth == 0 else generator.exponential(size=size)
        found = bootstrap_each(lambda means: means, table, resample_weights(prompts, 1000, seed))
        held += [holds(one, truth) for one in found]
    return coverage("mean", f"{kind}, {prompts} prompts", held)


def paired_difference(simulations: int) -> Row:
    """The difference of two policies' bounded rewards on the same prompts."""
    generator, held = np.random.default_rng(1), []
    truth = 6 / 8 - 4 / 6
    for seed in range(simulations):
        ease = generator.random(128)
        # quantiles of two beta distributions at partly shared ranks, averaged over two responses
        ranks = np.clip(0.6 * ease[:, None] + 0.4 * generator.random((128, 4)), 0, 1)
        ranks = _uniform(ranks)
        rewards = special.betaincinv([6, 6, 4, 4], [2, 2, 2, 2], ranks)
        difference = rewards[:, :2].mean(axis=1) - rewards[:, 2:].mean(axis=1)
        held.append(holds(bootstrap_mean(difference, _weights(128, seed)), truth))
    return coverage("paired difference", "beta-distributed rewards, 128 prompts", held)


def _uniform(ranks: Array) -> Array:
    """The distribution function of .6 U + .4 V at its own values, so that ranks are uniform."""
    rising = ranks**2 / (2 * 0.6 * 0.4)
    middle = (ranks - 0.2) / 0.6
    falling = 1 - (1 - ranks) ** 2 / (2 * 0.6 * 0.4)
    return np.asarray(np.where(ranks < 0.4, rising, np.where(ranks < 0.6, middle, falling)))


def win_rate(simulations: int) -> Row:
    """The win rate of two responses against eight of the reference, prompt by prompt."""
    generator, held = np.random.default_rng(2), []
    truth = float(special.ndtr(0.5 / math.sqrt(2 + 0.25)))
    for seed in range(simulations):
        lead = generator.normal(0.5, 0.5, (128, 1))
        won = win_fraction(lead + generator.normal(size=(128, 2)), generator.normal(size=(128, 8)))
        held.append(holds(bootstrap_mean(won.mean(axis=1), _weights(128, seed)), truth))
    return coverage("win rate", "2 responses against 8, 128 prompts", held)


def strengths(simulations: int) -> Row:
    """All Bradley-Terry strengths of five policies."""
    skill, taste = np.array([-0.6, -0.2, 0.0, 0.3, 0.5]), 0.5
    expected = special.ndtr((skill[:, None] - skill) / math.sqrt(2 + 2 * taste**2))
    np.fill_diagonal(expected, 0)
    truth = choix.ilsr_pairwise_dense(expected, tol=1e-10)
    truth = truth - truth.mean()
    generator, held = np.random.default_rng(3), []
    names = [str(index) for index in range(5)]
    for seed in range(simulations):
        level = skill[:, None] + generator.normal(0, taste, (5, 128))
        rewards = level[:, :, None] + generator.normal(size=(5, 128, 2))
        wins = {
            (names[i], names[j]): win_fraction(rewards[i], rewards[j]).mean(axis=1)
            for i in range(5)
            for j in range(i + 1, 5)
        }
        found = round_robin(names, wins, _weights(128, seed))
        held += [holds(one.strength, float(truth[int(one.name)])) for one in found]
    return coverage("Bradley-Terry strength", "5 policies, 128 prompts", held)


def length_control(simulations: int) -> Row:
    """The length-controlled win rate where longer responses are preferred, and are longer."""
    generator, held = np.random.default_rng(4), []
    truth = float(special.expit(0.2))
    for seed in range(simulations):
        longer = generator.normal(8, 8, (128, 1)) + generator.normal(0, 6, (128, 2))
        chance = special.expit(0.2 + 1.0 * np.tanh(longer / 10))
        won = (generator.random((128, 2)) < chance).astype(float)
        held.append(holds(length_controlled(won, longer, _weights(128, seed)).controlled, truth))
    return coverage("length-controlled win rate", "2 responses, 128 prompts", held)


def peak(seeds: int, simulations: int) -> Row:
    """The KL at which d (.75 - .4 ln d) peaks."""
    generator, held = np.random.default_rng(20 + seeds), []
    truth = math.exp(2 * (0.75 / 0.4 - 1))
    for seed in range(simulations):
        points, reference = hump(generator, 0.75, 0.4, 128, seeds)
        found = fit_overoptimization(points, reference, _weights(128, seed))
        held.append(found.peak is not None and holds(found.peak, truth))
    return coverage("peak of gold reward", "1 seed" if seeds == 1 else f"{seeds} seeds", held)


def policy_rows(simulations: int) -> Iterator[Callable[[], list[Row]]]:
    """Every row on figures of single policies, as pieces of work."""
    for kind in ("normal", "exponential"):
        for prompts in (64, 256):
            yield partial(_one, mean, kind, prompts, simulations)
    yield partial(_one, paired_difference, simulations)
    yield partial(_one, win_rate, simulations)
    yield partial(_one, length_control, simulations // 4)
    yield partial(_one, strengths, simulations // 4)
    yield partial(_one, peak, 1, simulations // 2)
    yield partial(_one, peak, 3, simulations // 2)


def _one(case: Callable[..., Row], *arguments: object) -> list[Row]:
    return [case(*arguments)]
