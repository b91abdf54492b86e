"""The table of verdicts that a judge did not give, by policy and opponent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dpo_bench.analysis.estimate import finite
from dpo_bench.analysis.loss_curves import trial_label
from dpo_bench.analysis.lost_verdicts import MOST_LOST, is_too_large, unlike_the_others
from dpo_bench.analysis.opponents import CHOSEN, OPPONENTS, REFERENCE, read_opponents
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.analysis.series import group_series
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row
from dpo_bench.report.templating import Words
from dpo_bench.wording import MISSING


@dataclass(frozen=True)
class Losses:
    """What a judged sweep lost.

    Attributes:
        results: the sweep.
    """

    results: SweepResults

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Each trial's name."""
        seeds = self.results.seeds
        return {
            t.id: trial_label(one, t, seeds)
            for one in group_series(self.results)
            for t in one.trials
        }

    @cached_property
    def known(self) -> tuple[Trial, ...]:
        """The trials whose losses were counted."""
        return tuple(t for t in self.results.done if _count(t, "judge_lost_share") is not None)

    @cached_property
    def unlike(self) -> frozenset[str]:
        """Ids of the trials that lost more or less than the others."""
        prompts = self.results.prompts or 0
        touched = [int(_count(trial, "judge_lost_prompts") or 0) for trial in self.known]
        if max(touched, default=0) > prompts:  # the trials answered different prompts
            return frozenset()
        flags = unlike_the_others(touched, prompts)
        return frozenset(t.id for t, flag in zip(self.known, flags, strict=True) if flag)

    @cached_property
    def dropped(self) -> Mapping[str, frozenset[object]]:
        """By trial the prompts that no comparison can use, because of its missing verdicts."""
        return {trial.id: _dropped(trial) for trial in self.results.done}

    @cached_property
    def round_robin(self) -> Mapping[str, int]:
        """By trial the pairs that it lost with other policies; empty without a judged one."""
        file = self.results.folder / OPPONENTS
        if self.results.sources or not file.is_file():
            return {}
        names, wins = read_opponents(file)
        others = [place for place, name in enumerate(names) if name not in (REFERENCE, CHOSEN)]
        lost = np.isnan(wins[np.ix_(others, others)]).sum(axis=(1, 2))
        return {names[place]: int(count) for place, count in zip(others, lost, strict=True)}


def lost_section(results: SweepResults) -> ReportSection | None:
    """Verdicts lost by policy; None where no judge decided or none was lost."""
    if not results.judge:
        return None
    losses = Losses(results)
    anything = any(_count(trial, "judge_lost_share") for trial in losses.known)
    if not anything and not any(losses.dropped.values()):
        return None
    return written(
        "lost_verdicts",
        _rows(losses),
        (*_comparisons(losses), MOST_LOST),
        (bool(losses.round_robin),),
    )


def missing_verdicts(results: SweepResults) -> Iterator[str]:
    """A sentence for each policy that lost many verdicts, or others than its rivals."""
    if not results.judge:
        return
    losses = Losses(results)
    for trial in losses.known:
        share = _count(trial, "judge_lost_share")
        many, unlike = is_too_large(share), trial.id in losses.unlike
        if many or unlike:
            about = (losses.labels[trial.id], share, many, unlike, MOST_LOST)
            yield from Words("sections").items("missing_verdicts", *about)


def _comparisons(losses: Losses) -> tuple[int, int, list[tuple[str, int]]]:
    """Prompts dropped from comparisons, of how many, and by whom, the most first."""
    by_whom = [(losses.labels[one], len(found)) for one, found in losses.dropped.items() if found]
    everyone = frozenset[object]().union(*losses.dropped.values())
    return (
        len(everyone),
        losses.results.reference.prompts.shape[0] or losses.results.prompts or 0,
        sorted(by_whom, key=lambda pair: -pair[1]),
    )


def _rows(losses: Losses) -> Iterator[Row]:
    series = {t.id: one.index for one in group_series(losses.results) for t in one.trials}
    for trial in losses.results.done:
        counted = [_cell(_count(trial, f"judge_lost_{one}")) for one in ("reference", "chosen")]
        if losses.round_robin:
            counted.append(_cell(losses.round_robin.get(trial.id)))
        share = _count(trial, "judge_lost_share")
        marks = (
            "over the limit" if is_too_large(share) else "",
            "unlike the others" if trial.id in losses.unlike else "",
        )
        shown = MISSING if share is None else f"{100 * share:.1f}%"
        yield Row(
            (
                Cell(losses.labels[trial.id]),
                *counted,
                Cell(shown, notes=marks, value=share),
                _cell(_count(trial, "judge_lost_prompts")),
                _cell(len(losses.dropped[trial.id])),
            ),
            series[trial.id],
            trial.id,
        )


def _count(trial: Trial, column: str) -> float | None:
    return finite(trial.row.get(column))


def _cell(count: float | None) -> Cell:
    return Cell(MISSING if count is None else f"{count:,.0f}", value=count)


def _dropped(trial: Trial) -> frozenset[object]:
    """Prompts without any verdict against the reference, after training or along it."""
    found: set[object] = set()
    for table in (trial.samples, trial.checkpoint_prompts):
        if "win_reference" in table:
            keys = [name for name in ("step", "prompt_id") if name in table]
            means = table.groupby(keys)["win_reference"].mean()
            lost = means[means.isna()].index
            found |= set(lost.get_level_values("prompt_id"))
    return frozenset(found)
