"""Measuring one existing policy, without training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dpo_bench.evaluation.statistics import Estimate
from dpo_bench.experiment import Experiment
from dpo_bench.notes import heard
from dpo_bench.storage import write_json
from dpo_bench.sweep.bench import Bench
from dpo_bench.sweep.display import Display
from dpo_bench.sweep.sources import find_sources
from dpo_bench.sweep.summary import print_doubts
from dpo_bench.tables import write_parquet

UNITS = {
    "kl": "nats",
    "kl_monte_carlo": "nats",
    "margin": "nats",
    "chosen_logratio": "nats",
    "rejected_logratio": "nats",
    "response_tokens": "tokens",
    "length_drift": "tokens",
    "kl_reverse": "nats",
    "kl_per_token": "nats per token",
    "token_entropy": "nats per token",
}


def has_interval(estimate: Estimate) -> bool:
    """Whether a figure has one: a flag, or a single prompt, has none."""
    return not math.isnan(estimate.low)


def evaluate_policy(
    experiment: Experiment, policy: str, out: Path | None, console: Console, display: Display
) -> None:
    """Print a policy's metrics with their intervals; write its tables when ``out`` is given.

    The reference is the experiment's ``reference``, or else its ``policy``: where training would
    have started.

    Raises:
        DpoBenchError: the policy, the reference or the data cannot be used.
    """
    # As if a sweep had trained it: it is held to all that a sweep asks of policy and reference.
    changes: dict[str, Any] = {
        "policy": policy,
        "reference": experiment.reference or experiment.policy,
        "training": experiment.training.model_copy(update={"lora": None}),
    }
    measured = experiment.model_copy(update=changes)
    with display, heard(lambda note: display.note(note.text, warning=note.is_warning)):
        bench = Bench(measured, find_sources(measured, display.phase), display.phase)
        result = bench.evaluator.evaluate(bench.policy, display.phase)
    judged = measured.evaluation.reward.startswith("judge:")
    print_doubts(bench.reference_folder, console, judged=judged)
    table = Table("metric", "value", "95% interval", "n", "unit", title=policy)
    for name, estimate in result.metrics.items():
        interval = f"\\[{estimate.low:.3f}, {estimate.high:.3f}]" if has_interval(estimate) else ""
        table.add_row(name, f"{estimate.value:.3f}", interval, str(estimate.n), UNITS.get(name, ""))
    console.print(table)
    if out is not None:
        write_parquet(out / "samples.parquet", result.samples)
        write_parquet(out / "heldout.parquet", result.heldout)
        metrics = {name: estimate.as_dict() for name, estimate in result.metrics.items()}
        write_json(out / "evaluation.json", {"metrics": metrics, "notes": dict(result.notes)})
