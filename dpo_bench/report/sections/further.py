"""Summary beyond single KLs: areas between curves, over-optimization, strengths, length control.

Each is worked out where the sweep has what it needs; a report leaves the others out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dpo_bench.analysis import matched
from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.compare import most_overlapping
from dpo_bench.analysis.length_control import length_controlled
from dpo_bench.analysis.loss_curves import LossCurve, trial_label
from dpo_bench.analysis.matched_policies import MatchedPolicies
from dpo_bench.analysis.metrics import KL, REWARD, WIN_RATE
from dpo_bench.analysis.overoptimization import Fit, fit_overoptimization
from dpo_bench.analysis.points import trained
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.sections.round_robin import strengths_of_players
from dpo_bench.report.sections.section import ReportSection
from dpo_bench.report.table_values import Cell, Row, Table, estimate_cell
from dpo_bench.report.templating import Words
from dpo_bench.wording import number

_RESAMPLES = 500
"""of the fits, each of which is solved anew for every resample"""


def further_sections(
    results: SweepResults,
    series: Sequence[LossCurve],
    curves: CurvesOnPrompts | None,
    policies: MatchedPolicies,
) -> tuple[ReportSection, ...]:
    """All sections for which the sweep has the data, in their order."""
    if curves is None:
        found = _length_control(results, _all_prompts(results), policies)
        return () if results.has_kl or found is None or not found.table.rows else (found,)
    sections = (
        _areas(series, curves),
        _overoptimization(results, series, curves),
        strengths_of_players(results, curves.prompts, policies),
        _length_control(results, curves.prompts, policies),
    )
    return tuple(
        one for one in sections if one is not None and (one.table.rows or not one.table.columns)
    )


def _areas(series: Sequence[LossCurve], curves: CurvesOnPrompts) -> ReportSection | None:
    measure = curves.measures[0]
    found = matched.areas(most_overlapping(curves.curves), curves.weights)
    if not found:
        return None
    names = {str(one.index): one for one in series}
    rows = [
        Row(
            (
                Cell(f"{names[one.first].label} \u2212 {names[one.second].label}"),
                estimate_cell(one.mean),
                estimate_cell(one.area),
                Cell(number(one.adjusted), value=one.adjusted),
                Cell("separated" if one.adjusted < 0.05 else "not separated"),
            ),
        )
        for one in sorted(found, key=lambda area: area.adjusted)
    ]
    columns = (
        ("Pair", ""), ("Mean difference", f"In {measure.phrase}, over the range."),
        ("Area", "Mean difference times the width of the range, in nats."),
        ("p, corrected", "Holm's correction over the areas of all pairs."), ("Verdict", ""),
    )  # fmt: skip
    about = Words("sections").paragraph("areas", found[0].low, found[0].high, measure)
    return ReportSection("areas", "Area between the curves", about, Table(columns, tuple(rows)))


def _overoptimization(
    results: SweepResults, series: Sequence[LossCurve], curves: CurvesOnPrompts
) -> ReportSection | None:
    own = results.reference.samples
    if REWARD not in curves.measures or "reward" not in own or curves.weights is None:
        return None
    by_prompt = own.groupby("prompt_id")["reward"].mean().reindex(curves.prompts)
    if by_prompt.isna().any():
        return None
    reference = by_prompt.to_numpy(float)
    rows = []
    for one in series:
        points = trained(curves.by_measure[REWARD.name].get(str(one.index), ()))
        if len(points) < 3 or len({point.mean_kl for point in points}) < 3:
            continue
        fit = fit_overoptimization(points, reference, curves.weights)
        rows.append(Row(_fit_cells(one, fit), one.index))
    columns = (
        ("Loss", ""), ("Peak", "KL of the highest fitted reward, nats."),
        ("alpha", "Reward per root of a nat."), ("beta", "Above 0 where the curve turns down."),
        ("Residual", "Root mean square, in reward."),
        ("Quadratic in KL", "Residual of the quadratic in KL, for comparison."),
    )  # fmt: skip
    about = Words("sections").paragraph("overoptimization")
    return ReportSection(
        "overoptimization", "Over-optimization", about, Table(columns, tuple(rows))
    )


def _fit_cells(series: LossCurve, fit: Fit) -> tuple[Cell, ...]:
    if fit.peak is None:
        peak = Cell("none", notes=(fit.reason,))
    else:
        found = estimate_cell(fit.peak, KL.decimals)
        ends = [
            end for end, is_open in (("below", fit.open_low), ("above", fit.open_high)) if is_open
        ]
        notes = (f"open {' and '.join(ends)}",) if ends else ()
        peak = dataclasses.replace(found, notes=notes)
    return (
        Cell(series.label), peak, estimate_cell(fit.alpha), estimate_cell(fit.beta),
        Cell(number(fit.rmse)), Cell(number(fit.rmse_quadratic_kl)),
    )  # fmt: skip


def _length_control(
    results: SweepResults, prompts: pd.Index, policies: MatchedPolicies
) -> ReportSection | None:
    if not results.prompts_known or not len(prompts):
        return None
    weights = resample_weights(len(prompts), _RESAMPLES, results.bootstrap_seed)
    rows = []
    for one, trial in policies.players:
        table = trial.samples[trial.samples["prompt_id"].isin(prompts)]
        counts = table.groupby("prompt_id").size()
        extra = _extra_length(results, table)
        if (
            extra is None
            or "win_reference" not in table
            or counts.nunique() != 1
            or len(counts) != len(prompts)
            or table["win_reference"].isna().any()
        ):
            continue
        table = table.assign(extra=extra).sort_values(["prompt_id", "sample"])
        extra = table["extra"].to_numpy(float)
        shape = (len(prompts), int(counts.iloc[0]))
        wins = table["win_reference"].to_numpy(float).reshape(shape)
        found = length_controlled(wins, extra.reshape(shape), weights)
        cells = (
            Cell(trial_label(one, trial, results.seeds)), estimate_cell(found.raw),
            estimate_cell(found.controlled), estimate_cell(found.extra_length, 1),
        )  # fmt: skip
        rows.append(Row(cells, one.index))
    columns = (
        ("Policy", ""), (WIN_RATE.title, "As it is."),
        ("At equal length", "Length-controlled: the length term of a logistic fit set to 0."),
        ("Extra length", "Tokens more than the reference's responses."),
    )  # fmt: skip
    about = Words("sections").paragraph("length_control", policies.whose)
    return ReportSection("length", "Length control", about, Table(columns, tuple(rows)))


def _extra_length(results: SweepResults, table: pd.DataFrame) -> Array | None:
    """How much longer each response is than the reference's to its prompt; None: not known."""
    if "extra_length" in table:
        return table["extra_length"].to_numpy(float)
    own = results.reference.samples
    if own.empty or "tokens" not in table:
        return None
    lengths = own.groupby("prompt_id")["tokens"].mean()
    usual = lengths.reindex(table["prompt_id"]).to_numpy(float)
    return np.asarray(table["tokens"].to_numpy(float) - usual)


def _all_prompts(results: SweepResults) -> pd.Index:
    """The prompts that every trial answered, sorted."""
    tables = [one.samples["prompt_id"] for one in results.done if "prompt_id" in one.samples]
    return pd.Index(sorted(set.intersection(*map(set, tables)))) if tables else pd.Index([])
