"""The reference, evaluated on a real tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpo_bench.evaluation.reference_precision import excess_error
from dpo_bench.experiment import Experiment
from dpo_bench.storage import read_parquet
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.sources import find_sources


@pytest.fixture
def evaluated(llama_folder: Path, pairs_file: Path) -> Any:
    def run(**evaluation: Any) -> WorkerContext:
        experiment = Experiment.model_validate(
            {
                "name": "opponents",
                "policy": str(llama_folder),
                "preferences": str(pairs_file),
                "evaluation": {
                    "reward": "vader",
                    "prompts": 4,
                    "max_new_tokens": 6,
                    "resamples": 100,
                    "reference_samples": 24,
                    **evaluation,
                },
                "losses": [{"name": "dpo", "beta": 0.1}],
            }
        )
        return WorkerContext(experiment, find_sources(experiment))

    return run


@pytest.mark.parametrize(("reward", "precision"), [("vader", 0.3), ("vader", 1e-9), ("none", 0.3)])
def test_fewer_opponents_are_the_first_of_all(
    evaluated: Any, reward: str, precision: float
) -> None:
    columns = ["prompt_id", "sample", "response"]
    whole = read_parquet(evaluated(reward=reward).reference_folder / "samples.parquet")
    context = evaluated(reward=reward, reference_precision=precision)
    fewer = read_parquet(context.reference_folder / "samples.parquet")
    count = fewer["sample"].max() + 1
    assert count in {4, 8, 16, 24}
    kept = whole[whole["sample"] < count].reset_index(drop=True)
    assert fewer[columns].equals(kept[columns])
    if reward == "none":
        assert count == 4
        return
    np.testing.assert_array_equal(fewer["reward"], kept["reward"])
    own = read_parquet(context.reference_folder / "own.parquet")["reward"].to_numpy().reshape(4, -1)
    rewards = fewer["reward"].to_numpy().reshape(4, -1)
    assert count == 24 or excess_error(own, rewards) <= precision
    if count > 4:
        assert excess_error(own, rewards[:, : count // 2]) > precision
    assert context.evaluator.evaluate(context.reference).metrics["win_rate"].value >= 0
