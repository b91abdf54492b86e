"""The section on what a judge was asked: questions, failures, tokens and, with prices, the cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_bench.analysis.estimate import finite
from dpo_bench.analysis.judge_costs import JUDGE_COSTS, dollars
from dpo_bench.analysis.metrics import CONSISTENCY
from dpo_bench.analysis.opponents import COST
from dpo_bench.analysis.results import SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.config import Evaluation
from dpo_bench.ledger import Ledger
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row
from dpo_bench.wording import MISSING, number


@dataclass(frozen=True, slots=True)
class Taken:
    """What a part of the judging took; a count is None where the endpoint did not say.

    Attributes:
        part: of the sweep.
        requests: questions, each pair in both orders.
        failures: questions without a verdict.
        input_tokens: that the judge read.
        output_tokens: that it wrote.
    """

    part: str
    requests: float | None
    failures: float | None
    input_tokens: float | None
    output_tokens: float | None


def judging_section(results: SweepResults, experiment: Experiment | None) -> ReportSection | None:
    """What was asked of the judge; None where none was."""
    parts = list(_parts(results)) if results.judge else []
    if experiment is None or not parts:
        return None
    if len(parts) > 1:
        sums = (_total([getattr(one, name) for one in parts]) for name in JUDGE_COSTS)
        parts.append(Taken("All", *sums))
    evaluation = experiment.evaluation
    prices = (evaluation.judge_price_input, evaluation.judge_price_output)
    rows = [Row(tuple(_cells(one, prices))) for one in parts]
    return written("judging", rows, _about(results, evaluation))


def _about(results: SweepResults, evaluation: Evaluation) -> tuple[Any, ...]:
    """What the section's text reads."""
    agreed = [trial.value(CONSISTENCY.name) for trial in results.done]
    known = [share for share in agreed if share is not None]
    return (
        results.judge,
        evaluation.judge_base_url,
        (min(known), max(known)) if known else None,
        sum(_own_temperature(results)),
        (evaluation.judge_price_input, evaluation.judge_price_output),
    )


def _own_temperature(results: SweepResults) -> Iterator[float]:
    """Answers at another temperature than 0, of each trial and of the controls."""
    for trial in results.done:
        yield finite(trial.row.get("judge_own_temperature")) or 0
    yield finite(results.reference.controls_cost.get("own_temperature")) or 0


def _parts(results: SweepResults) -> Iterator[Taken]:
    yield from _taken("Trials", (_judge_columns(trial.row) for trial in results.done))
    along = (
        _judge_columns(row)
        for trial in results.done
        for row in trial.checkpoints.to_dict("records")
    )
    yield from _taken("Along training", along)
    yield from _taken("Controls", [results.reference.controls_cost])
    file = results.folder / COST
    if file.is_file():
        found = Ledger(results.folder).read_json(COST)
        yield from _taken("Round robin", [dict(found.get("judge") or {})])


def _judge_columns(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: row.get(f"judge_{name}") for name in JUDGE_COSTS}


def _taken(part: str, costs: Iterable[Mapping[str, Any]]) -> Iterator[Taken]:
    """The sum over the costs that are known; nothing where there is none."""
    known = [cost for cost in costs if finite(cost.get("requests")) is not None]
    if known:
        yield Taken(
            part, *(_total([finite(cost.get(name)) for cost in known]) for name in JUDGE_COSTS)
        )


def _total(counts: Sequence[float | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _cells(taken: Taken, prices: tuple[float | None, float | None]) -> Iterator[Cell]:
    yield Cell(taken.part)
    for name in JUDGE_COSTS:
        count = getattr(taken, name)
        share = ""
        if name == "failures" and count and taken.requests:
            share = f"{100 * count / taken.requests:.1f}%"
        yield Cell(MISSING if count is None else f"{count:,.0f}", notes=(share,), value=count)
    cost = dollars(taken.input_tokens, taken.output_tokens, prices)
    yield Cell(number(cost, 4 if cost is not None and cost < 1 else 2), value=cost)
