"""The round robin's strengths, by rewards or by what a judge said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.loss_curves import group_series
from dpo_bench.analysis.matched_policies import matched_policies
from dpo_bench.analysis.opponents import OPPONENTS
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.sections.round_robin import strengths_section
from dpo_bench.report.sections.section import ReportSection
from tests.report.conftest import ViewOf
from tests.report.judged import judged

PROMPTS = 40


def of(results: SweepResults) -> ReportSection | None:
    policies = matched_policies(group_series(results), "")
    return strengths_section(results, pd.RangeIndex(PROMPTS), policies)


def verdicts(results: SweepResults, folder: Path) -> pd.DataFrame:
    """A judged round robin in which a later player beats an earlier one on three of four prompts.

    Against the reference one prompt has no verdicts.
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
    table.loc[(table["opponent"] == "reference") & (table["prompt_id"] == 3), "win"] = np.nan
    table.to_parquet(folder / OPPONENTS)
    return table


def test_a_judged_round_robin_gives_strengths(view_of: ViewOf, tmp_path: Path) -> None:
    results = dataclasses.replace(judged(view_of("no_reward")), folder=tmp_path)
    assert of(results) is None, "none was judged"
    verdicts(results, tmp_path)

    found = of(results)

    assert found is not None
    assert "small judged the first of each" in found.about
    assert f"the same {PROMPTS - 1} prompts" in found.about
    labels = [row.cells[0].text for row in found.table.rows]
    assert labels[0] == "reference", "of those that play, the last in the file's order"
    values = [row.cells[2].value for row in found.table.rows]
    assert values == sorted(values, key=lambda value: -float(value or 0))
    assert sum(float(value or 0) for value in values) == pytest.approx(0, abs=1e-8)


def test_a_round_robin_of_other_trials_is_none_of_theirs(view_of: ViewOf, tmp_path: Path) -> None:
    results = dataclasses.replace(judged(view_of("no_reward")), folder=tmp_path)
    table = verdicts(results, tmp_path)
    others = {trial.id: f"{trial.id}0" for trial in results.done}
    table = table.replace({"trial": others, "opponent": others})
    table.to_parquet(tmp_path / OPPONENTS)
    assert of(results) is None
