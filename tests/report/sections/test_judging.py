"""What a judge was asked is counted, priced where there are prices, and never guessed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dpo_bench.analysis.matched_policies import matched_policies
from dpo_bench.analysis.metrics import WIN_RATE, present, ranking
from dpo_bench.analysis.series import group_series
from dpo_bench.report.configuration import read_experiment
from dpo_bench.report.samples import selections
from dpo_bench.report.sections.judging import judging_section
from dpo_bench.report.verdicts import verdict_facts
from tests.report.conftest import ViewOf
from tests.report.judged import COSTS, judged

PRICES = {"evaluation__judge_price_input": 0.5, "evaluation__judge_price_output": 2.0}


def rows(results: Any) -> dict[str, list[str]]:
    found = judging_section(results, read_experiment(results))
    assert found is not None
    return {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in found.table.rows}


def test_parts_are_summed_and_an_unknown_count_stays_unknown(view_of: ViewOf) -> None:
    results = judged(view_of("no_reward"))
    trials = len(results.done)
    found = rows(results)
    assert list(found) == ["Trials", "Controls", "All"]
    assert found["Trials"] == [
        *(f"{10 * trials}", f"{trials}", f"{2000 * trials:,}", f"{30 * trials}"),
        "\u2013",
    ]
    assert found["Controls"] == ["10", "1", "2,000", "\u2013", "\u2013"]
    assert found["All"][3] == "\u2013"


def test_answers_at_the_judges_own_temperature_are_counted(view_of: ViewOf) -> None:
    results = judged(view_of("no_reward"))
    found = judging_section(results, read_experiment(results))
    assert found is not None
    assert "own temperature" not in found.about
    cost = {**results.reference.controls_cost, "own_temperature": 1200}
    reference = dataclasses.replace(results.reference, controls_cost=cost)
    row = {**results.done[0].row, "judge_own_temperature": 34.0}
    trials = (dataclasses.replace(results.done[0], row=row), *results.done[1:])
    changed = dataclasses.replace(results, reference=reference, trials=trials)
    found = judging_section(changed, read_experiment(changed))
    assert found is not None
    assert "1,234 answers were given at the judge's own temperature" in found.about


def test_prices_give_the_cost(view_of: ViewOf) -> None:
    results = judged(view_of("no_reward"), **PRICES)
    trials = len(results.done)
    cost = trials * (2000 * 0.5 + 30 * 2.0) / 1e6
    assert float(rows(results)["Trials"][-1]) == pytest.approx(cost, abs=5e-5)
    assert rows(results)["Controls"][-1] == "\u2013"
    found = judging_section(results, read_experiment(results))
    assert found is not None
    assert "Prices: 0.5 and 2 US dollars per million tokens." in found.about
    assert "agreed on 50% to 68%" in found.about


def test_without_a_judge_there_is_no_such_section(view_of: ViewOf) -> None:
    assert judging_section(view_of("clean").results, view_of("clean").experiment) is None
    assert COSTS["failures"]


def test_the_best_policy_is_the_judges(view_of: ViewOf) -> None:
    view = view_of("no_reward")
    assert ranking(view.results).name == "preference_accuracy"
    assert ranking(view_of("clean").results).name == "reward"
    results = judged(view)
    (title,) = [one.title for one in present(results, (WIN_RATE,))]
    assert title == "Judge's win rate against the reference"
    series = group_series(results)
    policies = matched_policies(series, "")
    best = next(one for one in selections(results, series, policies) if one.key == "best")
    assert best.title == "each loss where its judge's win rate against the reference is highest"
    # The made-up rates rise from trial to trial: of each loss the last strength is the best.
    assert [trial.id for _, trial in best.policies] == [one.done[-1].id for one in series]


def test_verdicts_are_told_with_ties_gaps_and_disagreement() -> None:
    sample = {"win_reference": 0.75, "win_chosen": 0.5, "judge_agreed": 0.5}
    assert list(verdict_facts(sample)) == [
        "judge: wins 75% against the reference",
        "ties with the chosen response",
        "the orders disagree",
    ]
    gap = {"win_reference": 0.0, "win_chosen": float("nan"), "judge_agreed": 1.0}
    assert list(verdict_facts(gap)) == [
        "judge: loses to the reference",
        "no verdict against the chosen response",
    ]


def test_costs_along_training_and_of_the_round_robin_count(view_of: ViewOf, tmp_path: Any) -> None:
    import pandas as pd

    results = judged(view_of("no_reward"))
    first, *others = results.trials
    costs = {f"judge_{name}": [count, count] for name, count in COSTS.items()}
    # What the trial read from its folder is remembered there.
    first.__dict__["checkpoints"] = pd.DataFrame({"step": [1, 2], **costs})
    (tmp_path / "opponents.json").write_text(
        '{"judge": {"requests": 7, "asked": 7, "failures": 0, "input_tokens": 70,'
        ' "output_tokens": 7}}'
    )
    found = rows(dataclasses.replace(results, folder=tmp_path, trials=(first, *others)))
    assert found["Along training"] == ["20", "2", "4,000", "60", "\u2013"]
    assert found["Round robin"] == ["7", "0", "70", "7", "\u2013"]
    assert found["All"][0] == f"{10 * len(results.done) + 20 + 10 + 7:,}"
