"""Trials of a loss as a curve: the settings that make it, and those that were only tried.

How a sweep's trials come to be curves is in `series`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
    """One setting of a series, mostly a strength: trials that differ in nothing but the seed.

    Attributes:
        strength: its value; None for a loss without one.
        rank: place in the series' grid, from 0 for the smallest strength.
        trials: by seed, failed and stopped ones included.
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
class Option:
    """Values of training that a loss was tried with: one of those among which it is tuned.

    Attributes:
        values: of the keys that are tuned.
        label: the same in words.
        settings: those that were trained so, by ascending strength.
    """

    values: Mapping[str, Any]
    label: str
    settings: tuple[GridPoint, ...]


@dataclass(frozen=True, slots=True)
class LossCurve:
    """A loss over its own settings, which mostly are a grid of strengths.

    Attributes:
        index: place in the report, decides color and marker.
        label: the loss's name, with the settings that tell it from its siblings.
        loss: the loss's name.
        strength_name: which hyperparameter its grid varies.
        settings: that make its curve, by ascending strength.
        explored: settings that were tried and are no part of the curve: of a search, or with
            other values of what is tuned. They are shown, and neither joined nor compared.
        varied: names of further hyperparameters and keys of training in which settings differ.
        options: what the loss is tuned over; empty where nothing is.
        chosen: place of the option that was chosen.
    """

    index: int
    label: str
    loss: str
    strength_name: str
    settings: tuple[GridPoint, ...]
    explored: tuple[GridPoint, ...] = ()
    varied: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    chosen: int = 0

    @property
    def points(self) -> tuple[GridPoint, ...]:
        """All settings, those of the curve first."""
        return (*self.settings, *self.explored)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, by setting and seed."""
        return tuple(trial for setting in self.points for trial in setting.trials)

    @property
    def done(self) -> tuple[Trial, ...]:
        """The trials that finished."""
        return tuple(trial for trial in self.trials if trial.done)

    @property
    def on_curve(self) -> tuple[Trial, ...]:
        """Those of them that make the curve."""
        return tuple(trial for setting in self.settings for trial in setting.done)

    def highest(self, name: str) -> GridPoint:
        """The setting of the curve with the highest mean of a measure; unknown means come last.

        Raises:
            ValueError: nothing finished.
        """

        def height(setting: GridPoint) -> float:
            mean = setting.mean(name)
            return -math.inf if mean is None else mean

        return max((setting for setting in self.settings if setting.done), key=height)

    def setting_label(self, trial: Trial) -> str:
        """What tells a trial's setting from others of the loss: strength, and what else varies."""
        parts = []
        if trial.strength is not None:
            parts.append(f"{trial.strength_name} {plain_number(trial.strength)}")
        return ", ".join([*parts, *filter(None, [spelled_settings(trial, self.varied)])])


def by_loss(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Trials of one loss whose hyperparameters differ in the strength alone, in their order."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.loss, _other_settings(trial)), []).append(trial)
    return list(groups.values())


def variant_label(trial: Trial, siblings: Sequence[Trial]) -> str:
    """A loss's name, with the hyperparameters that tell a variant from its siblings."""
    if len(siblings) == 1:
        return trial.loss
    names = varying([one.hyperparameters for one in siblings])
    return f"{trial.loss} ({spelled_settings(trial, sorted(names - {trial.strength_name}))})"


def grid_points(trials: Iterable[Trial], varied: Sequence[str] = ()) -> tuple[GridPoint, ...]:
    """Trials by setting, ordered by strength and then by what else varies."""
    found: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        key = (_place(trial.strength), *(_place(trial.settings.get(name)) for name in varied))
        found.setdefault(key, []).append(trial)
    return tuple(
        GridPoint(
            strength=found[key][0].strength,
            rank=rank,
            trials=tuple(sorted(found[key], key=lambda trial: trial.seed)),
        )
        for rank, key in enumerate(sorted(found))
    )


def _place(value: Any) -> tuple[float, str]:
    """Where a value of a setting stands in order: numbers first, none before all."""
    if isinstance(value, int | float):
        return float(value), ""
    return (-math.inf, "") if value is None else (math.inf, str(value))


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
    """A trial's name among all: series, setting, and the seed when there are several."""
    parts = [series.label, *filter(None, [series.setting_label(trial)])]
    if len(seeds) > 1:
        parts.append(f"seed {trial.seed}")
    return ", ".join(parts)


def setting_key(trial: Trial) -> tuple[float | None, str, str]:
    """What tells a trial from others of its loss, but for the seed."""
    return trial.strength, _other_settings(trial), spelled_settings(trial, sorted(trial.training))


def spelled_settings(trial: Trial, names: Iterable[str]) -> str:
    """Values of hyperparameters and keys of training by name, those that the trial has."""
    known = {name: value for name, value in trial.settings.items() if value is not None}
    return ", ".join(f"{name} {spelled(known[name])}" for name in names if name in known)


def varying(settings: Iterable[Mapping[str, Any]]) -> set[str]:
    """The names whose values differ; a name that some lack differs."""
    given = list(settings)
    names = {name for setting in given for name in setting}
    return {name for name in names if len({str(setting.get(name)) for setting in given}) > 1}


def spelled(value: Any) -> str:
    """The value of a setting in words."""
    return plain_number(value) if isinstance(value, int | float) else str(value)


def _other_settings(trial: Trial) -> str:
    """The hyperparameters besides the strength, spelled out."""
    names = sorted(trial.hyperparameters.keys() - {trial.strength_name})
    return ", ".join(f"{name} {spelled(trial.hyperparameters[name])}" for name in names)
