"""All that a report says, worked out once; the page and the Markdown file only lay it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dpo_bench.analysis.best_setting import BestSetting, best_setting
from dpo_bench.analysis.compare import MatchedComparison, Plan, compare_series, primary_measure
from dpo_bench.analysis.loss_curves import LossCurve, trial_label
from dpo_bench.analysis.matched_policies import MatchedPolicies, matched_policies
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts, read_curves
from dpo_bench.analysis.readings import curves_in_common
from dpo_bench.analysis.regret import RegretAtLevel, frontier_regret
from dpo_bench.analysis.results import SweepResults
from dpo_bench.analysis.run_variance import run_variance
from dpo_bench.analysis.series import group_series
from dpo_bench.experiment import Experiment
from dpo_bench.report.configuration import read_experiment
from dpo_bench.report.matched_table import MatchedTables, matched_tables
from dpo_bench.report.samples import Selection, selections
from dpo_bench.report.sections.further import further_sections
from dpo_bench.report.sections.methods import Note, method_notes
from dpo_bench.report.sections.section import ReportSection
from dpo_bench.report.sections.setup import Setup, describe_setup
from dpo_bench.report.sections.summary import Summary, find, no_reward
from dpo_bench.report.table_values import HeatMap, Table, heat_maps, results_table, seed_table


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed trial."""

    title: str
    series: int
    trial: str
    error: str
    traceback: str


@dataclass(frozen=True)
class ReportView:
    """The content of a report, in the order in which it is shown.

    Attributes:
        results: the sweep.
        experiment: what made it; None for results that come from elsewhere.
        series: its curves.
        findings: summary, warnings, key figures.
        setup: varied, tuned, fixed.
        curves: of each loss over KL; None when nothing was scored.
        comparison: by the headline measure at matched KL, or a sentence: why there is none.
        matched: the comparison laid out; None when there is none.
        also_matched: the same by further measures, at the same KLs: descriptive.
        best: the setting to train; None where nothing tells.
        policies: each loss's policy nearest to the middle one of these KLs.
        gaps: to the optimal frontier at these KLs; empty where it is not known there.
        heat_maps: one per measure.
        table: every trial.
        seeds: spread over seeds; None with one seed.
        selections: policies whose responses are shown side by side; empty when no trial finished.
        failed: failed trials.
        further: gaps, areas, over-optimization, strengths, length control, controls, judging: if
            known.
        notes: methods.
        provenance: versions, hashes, machine.
    """

    results: SweepResults
    experiment: Experiment | None
    series: tuple[LossCurve, ...]
    findings: Summary
    setup: Setup
    curves: CurvesOnPrompts | None
    comparison: MatchedComparison | str
    matched: MatchedTables | None
    also_matched: tuple[MatchedTables, ...]
    best: BestSetting | None
    policies: MatchedPolicies
    gaps: tuple[RegretAtLevel, ...]
    heat_maps: tuple[HeatMap, ...]
    table: Table
    seeds: Table | None
    selections: tuple[Selection, ...]
    failed: tuple[Failure, ...]
    further: tuple[ReportSection, ...]
    notes: tuple[Note, ...]
    provenance: tuple[tuple[str, str], ...]

    @property
    def compared(self) -> tuple[MatchedTables, ...]:
        """The comparison by every measure, the headline first; empty when there is none."""
        return () if self.matched is None else (self.matched, *self.also_matched)

    @property
    def settings_file(self) -> str:
        """The file beside the report that holds every setting."""
        return "sources.json" if self.results.sources else "experiment.json"

    @property
    def no_reward(self) -> str:
        """What is left out of a report without reward, and that it is; empty otherwise."""
        return no_reward(self.results)


def build_view(results: SweepResults, plan: Plan | None = None) -> ReportView:
    """Work out everything that a report says about a sweep.

    Args:
        results: the sweep.
        plan: what is compared; None: what the experiment says.

    Raises:
        ConfigurationError: its experiment is of another version of the program.
    """
    experiment = read_experiment(results)
    series = group_series(results)
    curves = read_curves(results, series)
    known = None if isinstance(curves, str) else curves
    plan = plan or Plan.of(results)
    comparison = compare_series(curves, series, plan)
    matched = None if isinstance(comparison, str) else matched_tables(comparison, series)
    also = _also_matched(known, series, plan) if matched else ()
    best = _best(known, plan)
    policies = matched_policies(series, comparison)
    gaps = frontier_regret(results, curves, comparison)
    return ReportView(
        results=results,
        experiment=experiment,
        series=series,
        findings=find(results, experiment, series, comparison, best),
        setup=describe_setup(results, experiment, series),
        curves=known,
        comparison=comparison,
        matched=matched,
        also_matched=also,
        best=best,
        policies=policies,
        gaps=gaps,
        heat_maps=heat_maps(results, series),
        table=results_table(results, series),
        seeds=seed_table(results, series),
        selections=selections(results, series, policies),
        failed=tuple(_failures(results, series)),
        further=further_sections(
            results,
            experiment,
            series,
            curves=known,
            policies=policies,
            gaps=gaps,
            comparison=comparison,
        ),
        notes=method_notes(results, experiment, known if matched else None),
        provenance=tuple(_provenance(results)),
    )


def _also_matched(
    curves: CurvesOnPrompts | None, series: tuple[LossCurve, ...], plan: Plan
) -> tuple[MatchedTables, ...]:
    """The comparison by the measures beside the primary one."""
    if curves is None:
        return ()
    others = [one for one in curves.measures if one != primary_measure(curves, plan)]
    found = [compare_series(curves, series, plan, one) for one in others]
    return tuple(matched_tables(one, series) for one in found if not isinstance(one, str))


def _best(curves: CurvesOnPrompts | None, plan: Plan) -> BestSetting | None:
    """The setting with the highest primary measure."""
    if curves is None:
        return None
    points = curves.by_measure[primary_measure(curves, plan).name]
    variance = run_variance(curves_in_common(points))
    return best_setting(points, curves.doubts, variance, prompts_known=curves.prompts_known)


def _failures(results: SweepResults, series: tuple[LossCurve, ...]) -> Iterator[Failure]:
    for one in series:
        for trial in one.trials:
            if trial.failed:
                title = trial_label(one, trial, results.seeds)
                yield Failure(title, one.index, trial.id, trial.error, trial.traceback)


def _provenance(results: SweepResults) -> Iterator[tuple[str, str]]:
    for name, version in sorted(results.versions.items()):
        yield name, str(version)
    if results.platform:
        yield "machine", results.platform
    for name, value in results.hashes.items():
        yield f"{name}, SHA-256", str(value)
    for name, count in sorted(results.counts.items()):
        if isinstance(count, int):
            yield name.replace("_", " "), f"{count:,}"
