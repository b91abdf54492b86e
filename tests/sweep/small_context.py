"""A worker's context of one small trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpo_bench.experiment import Experiment
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.sources import find_sources


def small_context(
    policy: Path, preferences: Path, *, steps: int, evaluation: dict[str, Any], **keys: Any
) -> WorkerContext:
    """DPO for some steps of eight pairs, saved after each, with four prompts to evaluate on."""
    experiment = Experiment.model_validate(
        {
            "name": "small",
            "policy": str(policy),
            "preferences": str(preferences),
            "training": {
                "steps": steps,
                "pairs_per_step": 8,
                "learning_rate": 1e-2,
                "checkpoint_seconds": 0,
            },
            "evaluation": {
                "prompts": 4,
                "max_new_tokens": 8,
                "reference_samples": 4,
                "resamples": 100,
                **evaluation,
            },
            "losses": [{"name": "dpo", "beta": 0.1}],
            **keys,
        }
    )
    return WorkerContext(experiment, find_sources(experiment))
