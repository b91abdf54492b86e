"""Verdicts that a judge did not give: whose, against whom, and what is left out for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpo_bench.analysis.opponents import OPPONENTS
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.sections.lost_verdicts import lost_section, missing_verdicts
from tests.report.conftest import ViewOf
from tests.report.judged import judged


def losing(results: SweepResults, shares: dict[int, tuple[int, int, int, int]]) -> SweepResults:
    """Trials that lost, by place: pairs with the reference, with the chosen; prompts, dropped."""
    trials = []
    for place, trial in enumerate(results.done):
        against, chosen, prompts, dropped = shares.get(place, (0, 0, 0, 0))
        row: dict[str, Any] = {
            **trial.row,
            "judge_lost_reference": against,
            "judge_lost_chosen": chosen,
            "judge_lost_share": (against + chosen) / 256,
            "judge_lost_prompts": prompts,
        }
        wins = trial.samples["win_reference"].fillna(1.0)
        numbers = trial.samples["prompt_id"].rank(method="dense") - 1
        samples = trial.samples.assign(win_reference=wins.mask(numbers < dropped))
        changed = dataclasses.replace(trial, row=row)
        changed.__dict__["samples"] = samples  # what it reads from its folder is remembered there
        trials.append(changed)
    return dataclasses.replace(results, trials=tuple(trials))


def test_where_nothing_is_lost_there_is_no_table(view_of: ViewOf) -> None:
    results = losing(judged(view_of("no_reward")), {})
    assert lost_section(results) is None
    assert list(missing_verdicts(results)) == []
    assert lost_section(view_of("clean").results) is None
    assert list(missing_verdicts(view_of("clean").results)) == []


def test_pairs_and_prompts_are_counted_by_policy(view_of: ViewOf) -> None:
    results = losing(judged(view_of("no_reward")), {0: (5, 3, 6, 2), 2: (2, 0, 2, 3)})
    found = lost_section(results)
    assert found is not None
    rows = [[cell.text for cell in row.cells] for row in found.table.rows]
    assert rows[0][1:] == ["5", "3", "3.1%", "6", "2"]
    assert rows[1][1:] == ["0", "0", "0.0%", "0", "0"]
    assert rows[2][1:] == ["2", "0", "0.8%", "2", "3"]
    # prompts 0 and 1 for the first, 0 to 2 for the third: three in all, named by whom
    assert "3 of 64 prompts are left out of every comparison" in found.about
    assert f"{rows[2][0]} on 3; {rows[0][0]} on 2." in found.about
    assert list(missing_verdicts(results)) == []


def test_a_policy_that_loses_much_is_warned_of(view_of: ViewOf) -> None:
    results = losing(judged(view_of("no_reward")), {1: (20, 10, 25, 0)})
    found = lost_section(results)
    assert found is not None
    assert found.table.rows[1].cells[3].detail == "over the limit, unlike the others"
    (warning,) = missing_verdicts(results)
    assert warning.startswith("The judge gave no verdict on 11.7% of the pairs of ")
    assert "more than 5%, another share than for the other policies" in warning
    assert "No prompt is left out" in found.about


def test_what_the_round_robin_lost_stands_beside(view_of: ViewOf, tmp_path: Path) -> None:
    results = losing(judged(view_of("no_reward")), {0: (1, 0, 1, 0)})
    results = dataclasses.replace(results, folder=tmp_path)
    names = [*(trial.id for trial in results.done), "reference", "chosen"]
    pairs = [(a, b) for at, a in enumerate(names) for b in names[at + 1 :]]
    table = pd.DataFrame(
        {
            "trial": np.repeat([a for a, _ in pairs], 2),
            "opponent": np.repeat([b for _, b in pairs], 2),
            "prompt_id": np.tile(np.arange(2, dtype=np.int32), len(pairs)),
            "win": 1.0,
        }
    )
    table.loc[0, "win"] = np.nan  # the first two trials on the first prompt
    table.to_parquet(tmp_path / OPPONENTS)
    found = lost_section(results)
    assert found is not None
    assert [row.cells[3].text for row in found.table.rows[:3]] == ["1", "1", "0"]
