"""Measuring one existing policy, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dpo_bench.analysis.metrics import BY_NAME
from dpo_bench.experiment import Experiment
from dpo_bench.notes import heard
from dpo_bench.storage import write_json, write_parquet
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.display import Display
from dpo_bench.sweep.sources import find_sources


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
        context = WorkerContext(measured, find_sources(measured, display.phase), display.phase)
        result = context.evaluator.evaluate(context.policy, display.phase)
    table = Table("metric", "value", "95% interval", "n", "unit", title=policy)
    for name, estimate in result.metrics.items():
        interval = f"\\[{estimate.low:.3f}, {estimate.high:.3f}]" if estimate.has_interval else ""
        table.add_row(name, f"{estimate.value:.3f}", interval, str(estimate.n), BY_NAME[name].unit)
    console.print(table)
    if out is not None:
        write_parquet(out / "samples.parquet", result.samples)
        write_parquet(out / "heldout.parquet", result.heldout)
        metrics = {name: estimate.as_dict() for name, estimate in result.metrics.items()}
        write_json(out / "evaluation.json", {"metrics": metrics, "notes": dict(result.notes)})
