"""Measuring one existing policy, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.experiment import Experiment
from dpo_bench.model.allocator import use_expandable_segments
from dpo_bench.notes import heard
from dpo_bench.storage import write_json, write_parquet
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.display import Display
from dpo_bench.sweep.doubts import doubts
from dpo_bench.sweep.sources import find_sources

if TYPE_CHECKING:
    from dpo_bench.evaluation.policy import PolicyEvaluation


def evaluate_policy(experiment: Experiment, policy: str, display: Display) -> PolicyEvaluation:
    """A policy's metrics with their intervals.

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
    use_expandable_segments()
    with display, heard(lambda note: display.note(note.text, warning=note.is_warning)):
        context = WorkerContext(measured, find_sources(measured, display.phase), display.phase)
        found = context.evaluator.evaluate(context.policy, display.phase)
        judged = measured.has("judge")
        for doubt in doubts(context.reference_folder, judged=judged):
            display.note(doubt, warning=True)
    return found


def write_evaluation(found: PolicyEvaluation, folder: Path) -> None:
    """Write a policy's tables and metrics into a folder."""
    write_parquet(folder / "samples.parquet", found.samples)
    write_parquet(folder / "heldout.parquet", found.heldout)
    metrics = {name: estimate.as_dict() for name, estimate in found.metrics.items()}
    write_json(folder / "evaluation.json", {"metrics": metrics, "notes": dict(found.notes)})
