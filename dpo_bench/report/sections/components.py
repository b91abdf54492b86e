"""The section on what the differences are uncertain by, and what it costs to lower each part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.comparisons import Spread
from dpo_bench.analysis.loss_curves import varying
from dpo_bench.analysis.results import SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row
from dpo_bench.wording import number


def components_section(
    results: SweepResults, experiment: Experiment | None, comparison: MatchedComparison | str
) -> ReportSection | None:
    """The parts of a difference's variance; None with one seed or without a comparison."""
    if isinstance(comparison, str) or not comparison.repeated:
        return None
    spreads = [one.spread for one in comparison.family.all if one.spread]
    parts = _parts(spreads)
    total = sum(error**2 for error in parts.values())
    if not total:
        return None
    halved = _costs(results)
    decimals = comparison.measure.decimals + 1
    rows = [
        Row(
            (
                Cell(name),
                Cell(number(error, decimals), value=error),
                Cell(f"{100 * error**2 / total:.0f}%", value=error**2 / total),
                Cell(halved[name]),
            )
        )
        for name, error in parts.items()
    ]
    resampled = experiment is not None and experiment.training.resample == "bootstrap"
    varied = varying([one.training for one in results.trials])
    pairs = [] if resampled else ["the training pairs"]
    rate = [] if "learning_rate" in varied else ["learning rate"]
    same = ", ".join([*pairs, "model", "data set", *rate])
    return written("components", rows, (comparison.measure, len(spreads), resampled, same))


def _parts(spreads: list[Spread]) -> dict[str, float]:
    """The median standard error by source; sources that are not known are left out."""

    def middle(values: Iterator[float]) -> float:
        return median(values)

    found = {
        "prompts": middle(one.prompts for one in spreads),
        "responses": middle(one.responses for one in spreads),
        "runs": middle(one.runs for one in spreads),
        "reading between policies": middle(one.interpolation for one in spreads),
    }
    return {name: error for name, error in found.items() if not math.isnan(error)}


def _costs(results: SweepResults) -> dict[str, str]:
    """What halving each variance takes, in words."""
    table = results.table[results.table["status"] == "done"] if "status" in results.table else None
    again = both = ""
    if table is not None and {"train_seconds", "evaluation_seconds"} <= set(table):
        evaluation = float(table["evaluation_seconds"].sum())
        total = evaluation + float(table["train_seconds"].sum())
        again = f", {_in_words(evaluation)} of evaluation"
        both = f", {_in_words(total)} of training and evaluation"
    return {
        "prompts": f"twice the prompts{again}",
        "responses": f"twice the responses to each prompt{again}",
        "runs": f"twice the seeds{both}",
        "reading between policies": "strengths whose policies lie at the compared KLs",
    }


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
