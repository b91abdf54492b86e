"""A synthetic sweep turned into one that a judge decided."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.view import ReportView
from tests.report.sections.test_setup import with_settings

COSTS = {"requests": 10, "failures": 1, "input_tokens": 2000, "output_tokens": 30}


def judged(view: ReportView, **settings: Any) -> SweepResults:
    """The view's finished trials with a judge's figures and costs."""
    results = with_settings(
        view, evaluation__reward="judge:small", evaluation__judge_opponents=2, **settings
    )
    missed = {"value": 0.5, "low": 0.5, "high": 0.5, "n": 32, "expected": "exactly .5"}
    reference = dataclasses.replace(
        results.reference,
        controls={"self": missed | {"passed": False}},
        controls_cost={**COSTS, "asked": 0, "output_tokens": None},
    )
    costs = {f"judge_{name}": count for name, count in COSTS.items()}
    rates = [0.5 + 0.01 * place for place in range(len(results.done))]
    trials = tuple(
        dataclasses.replace(
            one, row={**one.row, **costs, "win_rate": rate, "judge_consistency": rate}
        )
        for one, rate in zip(results.done, rates, strict=True)
    )
    return dataclasses.replace(results, reference=reference, trials=trials, scored_by="judge:small")
