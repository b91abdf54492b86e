"""All that a report says, worked out once; the page and the Markdown file only lay it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dpo_bench.report.compare import MatchedComparison, compare_series, read_curves
from dpo_bench.report.controls import controls_section
from dpo_bench.report.findings import Findings, find
from dpo_bench.report.further import Finding, further_findings
from dpo_bench.report.judging import judging_section
from dpo_bench.report.matched_table import MatchedTables, matched_tables
from dpo_bench.report.methods import Note, method_notes
from dpo_bench.report.read import SweepResults
from dpo_bench.report.samples import SampleBrowser, sample_browser
from dpo_bench.report.series import Series, group_series, trial_label
from dpo_bench.report.setup import Setup, describe_setup
from dpo_bench.report.tables import HeatMap, Table, heat_maps, results_table, seed_table


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
        series: its curves.
        findings: summary, warnings, key figures.
        setup: varied, tuned, fixed.
        comparison: at matched KL, or a sentence that says why there is none.
        matched: the comparison laid out; None when there is none.
        heat_maps: one per measure.
        table: every trial.
        seeds: spread over seeds; None with one seed.
        browser: responses side by side, for paper; None when no trial finished.
        failed: failed trials.
        further: areas, over-optimisation, strengths, length control, controls, judging: those
            with data.
        notes: methods.
        provenance: versions, hashes, machine.
    """

    results: SweepResults
    series: tuple[Series, ...]
    findings: Findings
    setup: Setup
    comparison: MatchedComparison | str
    matched: MatchedTables | None
    heat_maps: tuple[HeatMap, ...]
    table: Table
    seeds: Table | None
    browser: SampleBrowser | None
    failed: tuple[Failure, ...]
    further: tuple[Finding, ...]
    notes: tuple[Note, ...]
    provenance: tuple[tuple[str, str], ...]

    @property
    def text_columns(self) -> int:
        """How many of the results table's first columns say which trial it is."""
        return 3 + (len(self.results.seeds) > 1) + bool(self.results.sources)

    @property
    def no_reward(self) -> str:
        """What is left out of a report without reward, and that it is; empty otherwise."""
        if self.results.has_reward:
            return ""
        if self.results.judge:
            return (
                f"Responses were compared in pairs by the judge {self.results.judge}, which gives"
                " no reward of its own to a response: mean reward, the optimal frontier, best-of-n"
                " and the comparison at matched KL are left out."
            )
        return (
            "This experiment has no reward (evaluation.reward = none): mean reward, win rates, the"
            " optimal frontier, best-of-n and the comparison at matched KL are left out."
        )


def build_view(results: SweepResults) -> ReportView:
    """Work out everything that a report says about a sweep."""
    series = group_series(results)
    curves = read_curves(results, series)
    comparison = compare_series(curves)
    matched = None if isinstance(comparison, str) else matched_tables(comparison, series)
    return ReportView(
        results=results,
        series=series,
        findings=find(results, series, comparison),
        setup=describe_setup(results, series),
        comparison=comparison,
        matched=matched,
        heat_maps=heat_maps(results, series),
        table=results_table(results, series),
        seeds=seed_table(results, series),
        browser=sample_browser(results, series),
        failed=tuple(_failures(results, series)),
        further=(
            *further_findings(results, series, None if isinstance(curves, str) else curves),
            *filter(None, (controls_section(results), judging_section(results))),
        ),
        notes=method_notes(results, matched is not None),
        provenance=tuple(_provenance(results)),
    )


def _failures(results: SweepResults, series: tuple[Series, ...]) -> Iterator[Failure]:
    for one in series:
        for trial in one.trials:
            if not trial.done:
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
