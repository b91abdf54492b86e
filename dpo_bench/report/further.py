"""Findings beyond single KLs: areas between curves, over-optimisation, strengths, length control.

Each is worked out where the sweep has what it needs; a report leaves the others out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo_bench.evaluation import matched
from dpo_bench.evaluation.bradley_terry import round_robin
from dpo_bench.evaluation.length_control import length_controlled
from dpo_bench.evaluation.overoptimisation import Fit, fit_overoptimisation
from dpo_bench.evaluation.points import trained
from dpo_bench.evaluation.statistics import Array, resample_weights
from dpo_bench.report.compare import most_overlapping
from dpo_bench.report.loss_curves import CurvesOnPrompts
from dpo_bench.report.matched_policies import MatchedPolicies
from dpo_bench.report.measures import KL, REWARD, WIN_RATE
from dpo_bench.report.read import SweepResults, Trial
from dpo_bench.report.series import Series, trial_label
from dpo_bench.report.tables import Cell, Row, Table
from dpo_bench.report.text import interval, number

_RESAMPLES = 500
"""of the fits, each of which is solved anew for every resample"""
_ROUND = 64
"""losses that play a round robin; the pairs of more are not fitted, and the section says so"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One further section of the report.

    Attributes:
        key: its anchor.
        title: its heading.
        about: how to read it, in sentences.
        table: its figures.
    """

    key: str
    title: str
    about: str
    table: Table


def further_findings(
    results: SweepResults,
    series: Sequence[Series],
    curves: CurvesOnPrompts | None,
    policies: MatchedPolicies,
) -> tuple[Finding, ...]:
    """All sections for which the sweep has the data, in their order."""
    if curves is None:
        return ()
    found = (
        _areas(series, curves),
        _overoptimisation(results, series, curves),
        _strengths(results, curves.prompts, policies),
        _length_control(results, curves.prompts, policies),
    )
    return tuple(
        one for one in found if one is not None and (one.table.rows or not one.table.columns)
    )


def estimate_cell(found: object, decimals: int = 3) -> Cell:
    """A figure with its interval."""
    value, low, high = (float(getattr(found, end)) for end in ("value", "low", "high"))
    return Cell(number(value, decimals), interval(low, high, decimals), value)


def _areas(series: Sequence[Series], curves: CurvesOnPrompts) -> Finding | None:
    measure = curves.measures[0]
    found = matched.areas(most_overlapping(curves.curves), curves.weights)
    if not found:
        return None
    names = {str(one.index): one for one in series}
    rows = [
        Row(
            "",
            names[one.first].index,
            False,
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
    low, high = (number(end, KL.decimals) for end in (found[0].low, found[0].high))
    columns = (
        ("Pair", ""), ("Mean difference", f"In {measure.phrase}, over the range."),
        ("Area", "Mean difference times the width of the range, in nats."),
        ("p, corrected", "Holm's correction over the areas of all pairs."), ("Verdict", ""),
    )  # fmt: skip
    about = (
        f"The area between two losses' curves over KL {low} to {high} nats, the range that all of"
        f" these cover: one figure of {measure.phrase} for the whole curve, first minus second."
    )
    return Finding("areas", "Area between the curves", about, Table(columns, tuple(rows)))


def _overoptimisation(
    results: SweepResults, series: Sequence[Series], curves: CurvesOnPrompts
) -> Finding | None:
    own = results.reference.samples
    if REWARD not in curves.measures or "reward" not in own:
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
        fit = fit_overoptimisation(points, reference, curves.weights)
        rows.append(Row("", one.index, False, _fit_cells(one, fit)))
    columns = (
        ("Loss", ""), ("Peak", "KL of the highest fitted reward, nats."),
        ("alpha", "Reward per root of a nat."), ("beta", "Above 0 where the curve turns down."),
        ("Residual", "Root mean square, in reward."),
        ("Quadratic in KL", "Residual of the quadratic in KL, for comparison."),
    )  # fmt: skip
    about = (
        "Where more KL stops paying: R(d) = d (alpha \u2212 beta ln d) with d the root of the KL"
        " (Gao et al. 2022, arXiv:2210.10760), fitted to the gain over the reference of each"
        " loss's trained policies. A peak is given only inside the KLs that were measured; an"
        " interval that ends where they end is open there."
    )
    return Finding("overoptimisation", "Over-optimisation", about, Table(columns, tuple(rows)))


def _fit_cells(series: Series, fit: Fit) -> tuple[Cell, ...]:
    if fit.peak is None:
        peak = Cell("none", fit.reason)
    else:
        found = estimate_cell(fit.peak, KL.decimals)
        ends = [
            end for end, is_open in (("below", fit.open_low), ("above", fit.open_high)) if is_open
        ]
        peak = Cell(
            found.text,
            f"{found.detail} open {' and '.join(ends)}" if ends else found.detail,
            found.value,
        )
    return (
        Cell(series.label), peak, estimate_cell(fit.alpha), estimate_cell(fit.beta),
        Cell(number(fit.rmse)), Cell(number(fit.rmse_quadratic_kl)),
    )  # fmt: skip


def _strengths(
    results: SweepResults, prompts: pd.Index, policies: MatchedPolicies
) -> Finding | None:
    players = policies.players
    if len(players) < 2 or not results.has_reward:
        return None
    if len(players) > _ROUND:
        return Finding("strengths", "Round robin", _too_many(len(players)), Table((), ()))
    rewards: dict[str, list[Array]] = {"reference": _rewards(results.reference.samples, prompts)}
    rewards |= {str(one.index): _rewards(trial.samples, prompts) for one, trial in players}
    wins = {
        (first, second): _shares(rewards[first], rewards[second])
        for first, second in itertools.combinations(rewards, 2)
    }
    weights = resample_weights(len(prompts), _RESAMPLES, int(results.evaluation.get("seed") or 0))
    found = round_robin(list(rewards), wins, weights)
    rows = list(_strength_rows(found, {str(o.index): (o, t) for o, t in players}, results))
    about = (
        "Every policy's responses against every other's and the reference's on the same prompts:"
        f" Bradley-Terry strengths (log-odds against the average), {_whose(policies)}."
        " KLs still differ: the matched comparison above is the fair one."
    )
    columns = (("Policy", ""), ("KL", "nats"), ("Strength", "Log-odds, 95% interval over prompts."))
    return Finding("strengths", "Round robin", about, Table(columns, tuple(rows)))


def _whose(policies: MatchedPolicies) -> str:
    where = f"whose KL is nearest to {number(policies.kl, KL.decimals)} nats"
    if left_out := len(policies.settings) - len(policies.compared):
        return f"of each loss that covers it the policy {where} ({left_out} do not)"
    return f"of each loss the policy {where}"


def _too_many(players: int) -> str:
    return (
        f"Left out: {players} losses are more than the {_ROUND} whose Bradley-Terry strengths are"
        " fitted. Report some of them apart, or compare them by the tables above."
    )


def _strength_rows(
    found: Sequence[object], players: Mapping[str, tuple[Series, Trial]], results: SweepResults
) -> Iterator[Row]:
    for one in found:
        name = str(getattr(one, "name"))  # noqa: B009
        strength = estimate_cell(getattr(one, "strength"))  # noqa: B009
        if name not in players:
            yield Row("", -1, False, (Cell("reference"), Cell(number(0.0, KL.decimals)), strength))
            continue
        series, trial = players[name]
        kl = Cell(number(trial.measured(KL.name).value, KL.decimals))
        label = Cell(trial_label(series, trial, results.seeds))
        yield Row("", series.index, False, (label, kl, strength))


def _rewards(samples: pd.DataFrame, prompts: pd.Index) -> list[Array]:
    grouped = samples.dropna(subset=["reward"]).groupby("prompt_id")["reward"]
    by_prompt = {key: values.to_numpy(float) for key, values in grouped}
    return [by_prompt[key] for key in prompts]


def _shares(first: Sequence[Array], second: Sequence[Array]) -> Array:
    """Share of pairs of responses to each prompt that the first wins, ties a half."""
    return np.array([
        np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b))
        for a, b in zip(first, second, strict=True)
    ])  # fmt: skip


def _length_control(
    results: SweepResults, prompts: pd.Index, policies: MatchedPolicies
) -> Finding | None:
    weights = resample_weights(len(prompts), _RESAMPLES, int(results.evaluation.get("seed") or 0))
    lengths = results.reference.samples.groupby("prompt_id")["tokens"].mean()
    rows = []
    for one, trial in policies.players:
        table = trial.samples[trial.samples["prompt_id"].isin(prompts)]
        counts = table.groupby("prompt_id").size()
        if (
            "win_reference" not in table
            or counts.nunique() != 1
            or table["win_reference"].isna().any()
        ):
            continue
        table = table.sort_values(["prompt_id", "sample"])
        extra = table["tokens"].to_numpy(float) - lengths.reindex(table["prompt_id"]).to_numpy(
            float
        )
        shape = (len(prompts), int(counts.iloc[0]))
        wins = table["win_reference"].to_numpy(float).reshape(shape)
        found = length_controlled(wins, extra.reshape(shape), weights)
        cells = (
            Cell(trial_label(one, trial, results.seeds)), estimate_cell(found.raw),
            estimate_cell(found.controlled), estimate_cell(found.extra_length, 1),
        )  # fmt: skip
        rows.append(Row("", one.index, False, cells))
    columns = (
        ("Policy", ""), (WIN_RATE.title, "As it is."),
        ("At equal length", "Length-controlled: the length term of a logistic fit set to 0."),
        ("Extra length", "Tokens more than the reference's responses."),
    )  # fmt: skip
    about = (
        "How much of a win rate is length: a logistic fit on the hyperbolic tangent of the"
        " standardised length difference, read at no difference (after AlpacaEval 2's"
        f" length-controlled win rate), beside the plain one; {_whose(policies)}."
    )
    return Finding("length", "Length control", about, Table(columns, tuple(rows)))
