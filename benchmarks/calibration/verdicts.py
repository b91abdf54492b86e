"""Losses compared at equal KL: coverage, false verdicts, power, the best setting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from scipy import special

from benchmarks.calibration.rows import Row, at_least, at_most, coverage, false_verdicts, holds
from benchmarks.calibration.simulate import LEVELS, Losses, equal_settings
from dpo_bench.analysis.best_setting import best_setting
from dpo_bench.analysis.comparisons import Comparison, Family, compare_losses
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.readings import curves_in_common
from dpo_bench.analysis.run_variance import run_variance

DRAWS = 1000
"""of each family's simulation; the program takes more"""


def family(curves: Curves, seed: int, **options: object) -> Family:
    """One experiment's comparisons."""
    given: dict[str, object] = {"levels": LEVELS, "draws": DRAWS, "seed": seed} | options
    return compare_losses(curves_in_common(curves), **given)  # type: ignore[arg-type]


def matched(losses: Losses, setting: str, simulations: int) -> list[Row]:
    """Intervals of differences and of the losses' own figures, and how narrow the former are."""
    generator = np.random.default_rng(losses.seeds + losses.prompts)
    share = losses.noise == "binary"
    differences: list[bool] = []
    values: list[bool] = []
    narrow: list[bool] = []
    among_narrow: list[bool] = []
    for seed in range(simulations):
        curves = losses.draw(generator)
        found = family(curves, seed, share=share)
        for one in found.all:
            if not one.compared:
                continue
            truth = losses.truth(one.first, one.kl) - losses.truth(one.second, one.kl)
            differences.append(holds(one.difference, truth))
            narrow.append(_is_narrow(found, one))
            if narrow[-1]:
                among_narrow.append(differences[-1])
        for kl, level in zip(found.levels, found.values, strict=True):
            values += [holds(one, losses.truth(name, kl)) for name, one in level.items()]
    rows = [coverage("matched-KL difference", setting, differences, simulations)]
    high = 1.0 if share and losses.wins in (0.02, 0.98) else 0.97
    rows.append(coverage("figure at a KL", setting, values, simulations, high=high))
    if not losses.seed_deviation and losses.seeds > 1:
        held = f"they hold {100 * np.mean(among_narrow):.0f}%" if among_narrow else "there is none"
        rows.append(at_most("narrower than .9 of prompts alone", setting, narrow, 0.02, held))
    return rows


def _is_narrow(found: Family, one: Comparison) -> bool:
    """Whether an interval is under .9 of the one that Student's t over prompts gives."""
    level = found.levels.index(one.kl)
    first, second = (
        found.readings[level][name].values.mean(axis=0) for name in (one.first, one.second)
    )
    gaps = first - second
    half = special.stdtrit(len(gaps) - 1, 0.975) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    width = one.difference.high - one.difference.low
    return bool(width < 0.9 * 2 * half)


def nothing_better(
    losses: Losses, setting: str, simulations: int, levels: tuple[float, ...] = LEVELS
) -> Row:
    """Any verdict on losses that are equal: all pairs at some KLs."""
    generator = np.random.default_rng(losses.prompts + 7 * losses.seeds)
    wrong, withheld = [], 0
    for seed in range(simulations):
        found = family(losses.draw(generator), seed, levels=levels).all
        wrong.append(any(one.decided for one in found))
        withheld += sum(
            one.verdict == "open" and one.policies == "open" and one.p_value < 0.05 for one in found
        )
    about = f"{withheld} verdicts withheld because policies lie too far" if withheld else ""
    return false_verdicts("any false verdict", setting, wrong, about)


def nothing_same(losses: Losses, margin: float, setting: str, simulations: int) -> Row:
    """Losses that differ by just the margin, called the same."""
    generator = np.random.default_rng(11)
    wrong = [
        any(
            one.verdict == "same"
            for one in family(
                losses.draw(generator), seed, baseline="0", same_within=margin, levels=(3.0,)
            ).all
        )
        for seed in range(simulations)
    ]
    return false_verdicts("any false same", setting, wrong)


def power(simulations: int) -> Row:
    """Three losses that are .08 better than the baseline: found at one of the compared KLs."""
    losses = Losses((0.0, 0.08, 0.08, 0.08), prompts=256, seeds=3, grid="targets")
    generator = np.random.default_rng(12)
    found: list[bool] = []
    at_one: list[bool] = []
    for seed in range(simulations):
        comparisons = family(losses.draw(generator), seed, baseline="0").all
        for name in ("1", "2", "3"):
            own = [one.verdict == "better" for one in comparisons if one.first == name]
            found.append(any(own))
            at_one += own
    about = f"at a given one of the three KLs {100 * np.mean(at_one):.0f}%"
    return at_least(
        "a difference of .08 is found",
        "3 seeds, seed deviation .02, 256 prompts, 3 losses against a baseline, 3 KLs",
        found,
        0.7,
        about,
    )


def chosen(settings: int, prompts: int, seeds: int, deviation: float, simulations: int) -> Row:
    """The figure of the best setting, when all are equal."""
    generator = np.random.default_rng(settings + seeds)
    held, values = [], []
    for _ in range(simulations):
        curves = equal_settings(generator, settings, prompts, seeds, deviation)
        found = best_setting(curves, {}, run_variance(curves_in_common(curves)))
        if found is None:
            raise RuntimeError("nothing was chosen among equal settings")
        held.append(holds(found.expected, 0.0))
        values.append(found.expected.value)
    about = f"its figure is {np.mean(values):+.4f} on average, 0 being true"
    name = f"best of {settings} equal settings"
    where = f"{prompts} prompts, {seeds} seeds, deviation between seeds {deviation:g}"
    return coverage(name, where, held, high=1.0, about=about)


def whole_report(simulations: int) -> Row:
    """Every verdict that a report gives: by reward alone, though wins are shown as well."""
    losses = Losses((0.0,) * 4, prompts=256, seeds=3, noise="t3")
    generator = np.random.default_rng(14)
    wrong = []
    for seed in range(simulations):
        curves = losses.draw(generator)
        wins = {
            name: [Point(one.kl, one.reward > 0.5) for one in points]
            for name, points in curves.items()
        }
        primary = family(curves, seed, baseline="0")
        descriptive = family(wins, seed, baseline="0", share=True)
        if not descriptive.all:
            raise RuntimeError("the second measure was not compared")
        wrong.append(any(one.decided for one in primary.all))
    about = "the second measure has intervals and no verdict"
    return false_verdicts("any false verdict in a report", "reward and wins, 3 seeds", wrong, about)


def coverage_cases() -> Iterator[tuple[Losses, str]]:
    """Losses whose intervals are counted."""
    heights = (0.0, 0.05, 0.0)
    for seeds, deviation in itertools.product((1, 2, 3, 5, 10), (0.0, 0.03)):
        if seeds > 1 or not deviation:
            count = f"{seeds} seed{'s' if seeds > 1 else ''}"
            losses = Losses(heights, seeds=seeds, seed_deviation=deviation)
            yield losses, f"{count}, seed deviation {deviation:g}, 256 prompts"
    alike = Losses((0.0, 0.05, 0.0, 0.0), seed_deviation=0.05, alike=1.0)
    yield alike, "3 seeds, seed deviation .05, the same at all strengths"
    for prompts in (32, 64, 1024, 4096):
        yield Losses(heights, prompts=prompts), f"3 seeds, {prompts:,} prompts"
    for noise, prompts in itertools.product(("t3", "log-normal"), (32, 256)):
        losses = Losses(heights, prompts=prompts, noise=noise)  # type: ignore[arg-type]
        yield losses, f"{noise}, 3 seeds, {prompts} prompts"
    for wins in (0.02, 0.1, 0.5, 0.98):
        room = 0.1 * min(wins, 1 - wins)
        losses = Losses((0.0, room, 0.0), noise="binary", wins=wins, seed_deviation=room)
        yield losses, f"wins of {wins:g}, 3 seeds, 256 prompts"
    bent = Losses((0.0,) * 4, bends=(0.0, 0.1, -0.1, 0.05))
    yield bent, "curves of other shapes, 3 seeds, 256 prompts"


def null_cases() -> Iterator[tuple[Losses, str, tuple[float, ...]]]:
    """Losses that are equal at the KLs at which they are compared."""
    equal = (0.0,) * 6
    for prompts, grid in itertools.product((256, 1024, 4096), ("targets", "staggered")):
        losses = Losses(equal, prompts=prompts, grid=grid, scatter=0.3)  # type: ignore[arg-type]
        yield losses, f"{grid} strengths, 3 seeds, {prompts:,} prompts", LEVELS
    yield Losses(equal, seeds=2), "staggered strengths, 2 seeds, 256 prompts", LEVELS
    yield Losses(equal, seeds=1), "staggered strengths, 1 seed, 256 prompts", LEVELS
    heavy = Losses(equal, noise="log-normal", prompts=32)
    yield heavy, "log-normal, staggered strengths, 3 seeds, 32 prompts", LEVELS
    bent = Losses(equal, prompts=4096, bends=(0.0, 0.1, -0.1, 0.05, 0.2, -0.05))
    yield bent, "curves of other shapes that meet at KL 3, 3 seeds, 4,096 prompts", (3.0,)


def verdict_rows(simulations: int) -> Iterator[Callable[[], list[Row]]]:
    """Every row on losses at equal KL, as pieces of work."""

    def times(losses: Losses) -> int:
        return simulations // (2 if losses.prompts <= 256 else 4)

    for losses, setting in coverage_cases():
        yield partial(matched, losses, setting, times(losses))
    for losses, setting, levels in null_cases():
        yield partial(_one, nothing_better, losses, setting, 2 * times(losses), levels)
    yield partial(_one, whole_report, simulations)
    within = Losses((0.0, 0.1))
    yield partial(_one, nothing_same, within, 0.1, "a difference of .1, margin .1", simulations)
    yield partial(_one, power, simulations)
    choices = itertools.product((20, 60), ((256, 1, 0.0), (256, 3, 0.02), (1024, 3, 0.05)))
    for settings, (prompts, seeds, deviation) in choices:
        yield partial(_one, chosen, settings, prompts, seeds, deviation, simulations // 2)


def _one(case: Callable[..., Row], *arguments: object) -> list[Row]:
    return [case(*arguments)]
