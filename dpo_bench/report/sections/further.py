"""The sections beyond single KLs, each where the sweep has what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.matched_policies import MatchedPolicies
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.regret import RegretAtLevel
from dpo_bench.analysis.results import SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.report.sections.components import components_section
from dpo_bench.report.sections.gaps import gaps_section
from dpo_bench.report.sections.judging import judging_section
from dpo_bench.report.sections.length_control import length_section
from dpo_bench.report.sections.lost_verdicts import lost_section
from dpo_bench.report.sections.overoptimization import overoptimization_section
from dpo_bench.report.sections.round_robin import strengths_section
from dpo_bench.report.sections.sanity_checks import controls_section
from dpo_bench.report.sections.search import search_section
from dpo_bench.report.sections.section import ReportSection
from dpo_bench.report.sections.tuning import tuning_section


def further_sections(
    results: SweepResults,
    experiment: Experiment | None,
    series: Sequence[LossCurve],
    *,
    curves: CurvesOnPrompts | None,
    policies: MatchedPolicies,
    gaps: Sequence[RegretAtLevel],
    comparison: MatchedComparison | str,
) -> tuple[ReportSection, ...]:
    """All sections for which the sweep has the data, in their order."""
    found = (
        search_section(results, series),
        tuning_section(results, series),
        components_section(results, experiment, comparison),
        gaps_section(series, gaps),
        *_of_curves(results, series, curves, policies),
        controls_section(results),
        judging_section(results, experiment),
        lost_section(results),
    )
    return tuple(filter(None, found))


def _of_curves(
    results: SweepResults,
    series: Sequence[LossCurve],
    curves: CurvesOnPrompts | None,
    policies: MatchedPolicies,
) -> Iterator[ReportSection | None]:
    if curves is not None:
        yield overoptimization_section(results, series, curves)
        yield strengths_section(results, curves.prompts, policies)
        yield length_section(results, curves.prompts, policies)
    elif not results.has_kl:
        yield length_section(results, _all_prompts(results), policies)


def _all_prompts(results: SweepResults) -> pd.Index:
    """The prompts that every trial answered, sorted."""
    tables = [one.samples["prompt_id"] for one in results.done if "prompt_id" in one.samples]
    return pd.Index(sorted(set.intersection(*map(set, tables)))) if tables else pd.Index([])
