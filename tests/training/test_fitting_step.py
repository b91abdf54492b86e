"""A trial whose steps run out of memory is the trial that does not."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dpo_bench import get_loss
from dpo_bench.errors import EnvironmentProblem
from tests.model.test_out_of_memory import memory_for
from tests.training.test_trainer import PAIRS, Setup

TOKENS = 60
"""Of a pass that fits; a step has about three times as many."""


@pytest.fixture(scope="module")
def setup(llama_folder: Path) -> Setup:
    return Setup(llama_folder)


@pytest.fixture(autouse=True)
def _unlimited(setup: Setup) -> None:
    setup.backend.most_tokens = None


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", ["dpo", "kto", "bco", "tdpo2", "aot"])
def test_metrics_and_weights_are_those_of_enough_memory(
    setup: Setup, tmp_path: Path, name: str, backward: bool
) -> None:
    expected = setup.run(tmp_path / "enough", get_loss(name)).metrics
    weights = setup.snapshot()

    trainer = setup.trainer(tmp_path / "little", get_loss(name))
    with memory_for(setup.backend.model, TOKENS, backward=backward) as failed:
        found = trainer.run().metrics

    assert failed
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)
    assert (setup.snapshot() - weights).abs().max() < 1e-4


def test_running_state_of_a_need_counts_a_step_once(setup: Setup, tmp_path: Path) -> None:
    trainer = setup.trainer(tmp_path, get_loss("bco"), settings={"steps": 2})
    with memory_for(setup.backend.model, TOKENS, backward=True) as failed:
        trainer.run()
    assert failed
    assert int(trainer.update.measurer.state()["mean_logratio"]["responses"]) == 2 * 2 * 8


def test_a_pair_that_does_not_fit_by_itself_ends_it_with_advice(
    setup: Setup, tmp_path: Path
) -> None:
    trainer = setup.trainer(tmp_path)
    with (
        memory_for(setup.backend.model, int(PAIRS.sizes.min()) - 1),
        pytest.raises(EnvironmentProblem, match=r"What would fit: training\.checkpointing=full"),
    ):
        trainer.run()
