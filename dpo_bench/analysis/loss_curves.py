"""Trials as curves: one series per loss (and per setting of its other hyperparameters)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.kl_axis import position
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.wording import plain_number

CUT_SHARE = 0.1
"""share of responses cut at the token limit from which a policy's figures are doubtful"""


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One strength of a series: the trials that differ in nothing but the seed.

    Attributes:
        strength: its value; None for a loss without one.
        rank: place in the series' grid, from 0 for the smallest strength.
        trials: by seed, failed ones included.
    """

    strength: float | None
    rank: int
    trials: tuple[Trial, ...]

    @property
    def done(self) -> tuple[Trial, ...]:
        """The trials that finished."""
        return tuple(trial for trial in self.trials if trial.done)

    @property
    def doubts(self) -> str:
        """Why its policies are no good examples, in words; empty where they are.

        A policy is degenerate by the stated rule, or more than `CUT_SHARE` of its responses were
        cut at the token limit.
        """
        degenerate = any(trial.value("degenerate") == 1 for trial in self.done)
        cut = any((trial.cut_share or 0.0) > CUT_SHARE for trial in self.done)
        return " and ".join(["degenerate"] * degenerate + ["cut"] * cut)

    def mean(self, name: str) -> float | None:
        """Mean of a figure over the seeds that have it; None when none has."""
        values = [trial.value(name) for trial in self.done]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None


@dataclass(frozen=True, slots=True)
class LossCurve:
    """A loss over its own grid of strengths.

    Attributes:
        index: place in the report, decides color and marker.
        label: the loss's name, with the settings that tell it from its siblings.
        loss: the loss's name.
        strength_name: which hyperparameter its grid varies.
        settings: by ascending strength.
    """

    index: int
    label: str
    loss: str
    strength_name: str
    settings: tuple[GridPoint, ...]

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, by strength and seed."""
        return tuple(trial for setting in self.settings for trial in setting.trials)

    @property
    def done(self) -> tuple[Trial, ...]:
        """The trials that finished."""
        return tuple(trial for trial in self.trials if trial.done)

    def highest(self, name: str) -> GridPoint:
        """The setting that finished with the highest mean of a measure; unknown means come last.

        Raises:
            ValueError: nothing finished.
        """

        def height(setting: GridPoint) -> float:
            mean = setting.mean(name)
            return -math.inf if mean is None else mean

        return max((setting for setting in self.settings if setting.done), key=height)


def group_series(results: SweepResults) -> tuple[LossCurve, ...]:
    """The sweep's series, in the order in which the results table first names them."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in results.trials:
        groups.setdefault((trial.loss, _other_settings(trial, None)), []).append(trial)
    siblings: dict[str, list[Trial]] = {}
    for members in groups.values():
        siblings.setdefault(members[0].loss, []).append(members[0])
    return tuple(
        LossCurve(
            index=index,
            label=_label(members[0], siblings[members[0].loss]),
            loss=members[0].loss,
            strength_name=members[0].strength_name,
            settings=_settings(members),
        )
        for index, members in enumerate(groups.values())
    )


def kl_position(kl: Estimate) -> Estimate:
    """A KL with its interval as positions of the KL axis."""
    return Estimate(position(kl.value), position(kl.low), position(kl.high), kl.n)


def largest_kl(results: SweepResults) -> float:
    """Where the KL axis ends (nats): the largest end of any interval or curve, 1 without any."""
    measured = [trial.estimate("kl") for trial in results.done]
    ends = [end for kl in measured for end in (kl.value, kl.high) if math.isfinite(end)]
    ends += [
        float(kl)
        for trial in results.done
        if "kl" in trial.checkpoints
        for kl in trial.checkpoints["kl"].dropna()
    ]
    curves = (results.frontier, results.reference.best_of_n)
    return max([*ends, *(point.kl for curve in curves for point in curve)], default=1.0)


def trial_label(series: LossCurve, trial: Trial, seeds: Sequence[int]) -> str:
    """A trial's name among all: series, strength, and the seed when there are several."""
    parts = [series.label]
    if trial.strength is not None:
        parts.append(f"{trial.strength_name} {plain_number(trial.strength)}")
    if len(seeds) > 1:
        parts.append(f"seed {trial.seed}")
    return ", ".join(parts)


def setting_key(trial: Trial) -> tuple[float | None, str]:
    """What tells a trial from others of its loss, but for the seed."""
    return trial.strength, _other_settings(trial, None)


def _settings(trials: Sequence[Trial]) -> tuple[GridPoint, ...]:
    by_strength: dict[float, list[Trial]] = {}
    for trial in trials:
        key = -math.inf if trial.strength is None else trial.strength
        by_strength.setdefault(key, []).append(trial)
    return tuple(
        GridPoint(
            strength=by_strength[key][0].strength,
            rank=rank,
            trials=tuple(sorted(by_strength[key], key=lambda trial: trial.seed)),
        )
        for rank, key in enumerate(sorted(by_strength))
    )


def _other_settings(trial: Trial, names: set[str] | None) -> str:
    """The hyperparameters besides the strength, spelled out; all of them or only ``names``."""
    return ", ".join(
        f"{name} {_spelled(value)}"
        for name, value in sorted(trial.hyperparameters.items())
        if name != trial.strength_name and (names is None or name in names)
    )


def _label(trial: Trial, siblings: Sequence[Trial]) -> str:
    if len(siblings) == 1:
        return trial.loss
    return (
        f"{trial.loss} ({_other_settings(trial, _varying([s.hyperparameters for s in siblings]))})"
    )


def _varying(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    names = {name for setting in settings for name in setting}
    return {name for name in names if len({str(setting.get(name)) for setting in settings}) > 1}


def _spelled(value: Any) -> str:
    return plain_number(value) if isinstance(value, int | float) else str(value)
