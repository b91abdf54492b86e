"""Measuring one existing policy, without training."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bars
from rich.table import Table

from dpo_bench.evaluation.statistics import Estimate
from dpo_bench.experiment import Experiment
from dpo_bench.model.source import resolve_model
from dpo_bench.storage import write_json
from dpo_bench.sweep.bench import Bench
from dpo_bench.sweep.sources import find_sources
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
    experiment: Experiment, policy: str, out: Path | None, console: Console
) -> None:
    """Print a policy's metrics with their intervals; write its tables when ``out`` is given.

    The reference is the experiment's ``reference``, or else its ``policy``: where training would
    have started.

    Raises:
        DpoBenchError: the policy, the reference or the data cannot be used.
    """
    with Bars(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("")

        def progress(phase: str, done: int, total: int) -> None:
            bars.update(task, description=phase, completed=done, total=total)

        sources = find_sources(experiment, progress)
        bench = Bench(experiment, sources, progress)
        folder = resolve_model(
            policy,
            world=experiment.world,
            trust_remote_code=experiment.trust_remote_code,
            progress=progress,
        )
        result = bench.evaluator.evaluate(bench.load(folder), progress)
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
