"""The round robin's strengths, by rewards or by what a judge said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.matched_policies import matched_policies
from dpo_bench.analysis.opponents import OPPONENTS
from dpo_bench.analysis.results import SweepResults
from dpo_bench.analysis.series import group_series
from dpo_bench.report.sections.round_robin import strengths_section
from dpo_bench.report.sections.section import ReportSection
from tests.report.conftest import ViewOf
from tests.report.judged import judged

PROMPTS = 40


KLS = {"dpo": 1.0, "ipo": 1.2, "cdpo": 0.85}
"""Of each loss's first policy: within .1 of the root of 1 nat."""


def at(results: SweepResults, kls: dict[str, float] | None = None) -> SweepResults:
    """The sweep with one policy of each loss at a KL, and all others far away."""
    kls = KLS if kls is None else kls
    seen: set[str] = set()
    trials = []
    for trial in results.trials:
        far = 40.0 if trial.loss in seen else kls.get(trial.loss, 40.0)
        seen |= {trial.loss} if trial.done else set()
        trials.append(dataclasses.replace(trial, row={**trial.row, "kl": far}))
    return dataclasses.replace(results, trials=tuple(trials))


def of(results: SweepResults, kl: float = 1.0) -> ReportSection | None:
    policies = matched_policies(group_series(results), "")
    policies = dataclasses.replace(policies, kl=kl)
    prompts = results.done[0].samples["prompt_id"].unique()
    return strengths_section(results, pd.Index(prompts), policies)


def verdicts(results: SweepResults, folder: Path) -> pd.DataFrame:
    """A judged round robin in which a later player beats an earlier one on three of four prompts.

    Of the first two players one prompt has no verdict.
    """
    names = [*(trial.id for trial in results.done), "reference", "chosen"]
    pairs = [(a, b) for at, a in enumerate(names) for b in names[at + 1 :]]
    rows: dict[str, Any] = {
        "trial": np.repeat([a for a, _ in pairs], PROMPTS),
        "opponent": np.repeat([b for _, b in pairs], PROMPTS),
        "prompt_id": np.tile(np.arange(PROMPTS, dtype=np.int32), len(pairs)),
        "win": np.tile([0.0, 0.0, 0.0, 1.0], len(pairs) * PROMPTS // 4),
    }
    table = pd.DataFrame(rows)
    table.loc[3, "win"] = np.nan
    table.to_parquet(folder / OPPONENTS)
    return table


def test_a_judged_round_robin_gives_strengths(view_of: ViewOf, tmp_path: Path) -> None:
    results = dataclasses.replace(at(judged(view_of("no_reward"))), folder=tmp_path)
    assert of(results) is None, "none was judged"
    verdicts(results, tmp_path)

    found = of(results)

    assert found is not None
    assert "small judged the first of each" in found.about
    assert f"the same {PROMPTS} prompts" in found.about, "those that play lost none"
    labels = [row.cells[0].text.split(",")[0] for row in found.table.rows]
    assert labels == [
        name for name in reversed(list(dict.fromkeys(t.loss for t in results.done))) if name in KLS
    ], "the last in the file's order beats the others"
    values = [row.cells[2].value for row in found.table.rows]
    assert sum(float(value or 0) for value in values) == pytest.approx(0, abs=1e-8)


def test_prompts_without_a_verdict_are_left_out_and_counted(
    view_of: ViewOf, tmp_path: Path
) -> None:
    results = dataclasses.replace(at(judged(view_of("no_reward"))), folder=tmp_path)
    table = verdicts(results, tmp_path)
    table.loc[table["prompt_id"] == 3, "win"] = np.nan
    table.to_parquet(tmp_path / OPPONENTS)
    found = of(results)
    assert found is not None
    assert f"the same {PROMPTS - 1} prompts" in found.about
    assert "1 further prompt is left out, because the judge gave no verdict" in found.about


def test_a_round_robin_of_other_trials_is_none_of_theirs(view_of: ViewOf, tmp_path: Path) -> None:
    results = dataclasses.replace(at(judged(view_of("no_reward"))), folder=tmp_path)
    table = verdicts(results, tmp_path)
    others = {trial.id: f"{trial.id}0" for trial in results.done}
    table = table.replace({"trial": others, "opponent": others})
    table.to_parquet(tmp_path / OPPONENTS)
    assert of(results) is None


def test_only_policies_at_the_compared_kl_play(view_of: ViewOf) -> None:
    found = of(at(view_of("clean").results))
    assert found is not None
    shown = {row.cells[0].text.split(",")[0]: row.cells[1].text for row in found.table.rows}
    assert shown == {"dpo": "1.00", "ipo": "1.20", "cdpo": "0.85"}
    assert "within 10% of the compared KL, 1.00 nats" in found.about
    assert "Not near enough" in found.about
    assert "at 40.00." in found.about


def test_without_two_of_them_there_is_none_and_it_says_why(view_of: ViewOf) -> None:
    results = at(view_of("clean").results, {"dpo": 1.0, "ipo": 1.5})
    found = of(results)
    assert found is not None
    assert not found.table.rows
    assert "one loss has such a policy" in found.about
    assert "ipo" in found.about
    assert "at 1.50)." in found.about
    none = of(results, kl=10.0)
    assert none is not None
    assert "no loss has such a policy" in none.about


def test_the_strengths_are_those_of_the_shares(view_of: ViewOf) -> None:
    """Of two players the strength is half the log-odds, one further tie included."""
    results = at(view_of("clean").results, {"dpo": 1.0, "ipo": 1.0})
    found = of(results)
    assert found is not None
    first, second = (next(t for t in results.done if t.loss == loss) for loss in ("dpo", "ipo"))
    shares = [
        np.mean([(a > b) + 0.5 * (a == b) for a in ours for b in theirs])
        for ours, theirs in zip(
            *(t.samples.groupby("prompt_id")["reward"].apply(list) for t in (first, second)),
            strict=True,
        )
    ]
    won, lost = sum(shares) + 0.5, len(shares) - sum(shares) + 0.5
    values = {row.cells[0].text.split(",")[0]: row.cells[2].value for row in found.table.rows}
    assert values["dpo"] == pytest.approx(np.log(won / lost) / 2)
