"""Training an adapter keeps every promise of the trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from dpo_bench import get_loss
from dpo_bench.experiment.config import LoRA
from dpo_bench.model.load import load_model
from dpo_bench.model.logprobs import choose_backend
from dpo_bench.model.lora import reset_adapter, with_adapter
from dpo_bench.training.checkpoint import Checkpoint
from dpo_bench.training.reference_model import CachedReference
from dpo_bench.training.trainer import StoppedError, Trainer, TrainingResult
from dpo_bench.training.weights import trained_weights
from tests.conftest import tiny_folder
from tests.training.test_trainer import PAIRS, SETTINGS, stop_after

Adapter = dict[str, Tensor]


class Setup:
    """One frozen model, the adapter over it, and the model's own log-probs as the reference's."""

    def __init__(self, folder: Path) -> None:
        self.base = choose_backend(load_model(folder), "fp32")
        self.reference = CachedReference(self.base, PAIRS, str(folder), "cpu/fp32")
        self.backend = with_adapter(self.base, LoRA(rank=4, alpha=16), "tiny")

    def trainer(self, tmp_path: Path, loss: str = "dpo", seed: int = 0, **options: Any) -> Trainer:
        reset_adapter(self.backend.model, seed)
        changes = {"learning_rate": 1e-2, "steps": 3, **options.pop("settings", {})}
        return Trainer(
            self.backend,
            get_loss(loss),
            pairs=PAIRS,
            reference=self.reference,
            settings=SETTINGS.model_copy(update=changes),
            seed=seed,
            checkpoint=tmp_path / "checkpoint.pt",
            **options,
        )

    def run(
        self, tmp_path: Path, loss: str = "dpo", **options: Any
    ) -> tuple[TrainingResult, Adapter]:
        result = self.trainer(tmp_path, loss, **options).run()
        weights = trained_weights(self.backend.model)
        return result, {name: value.clone() for name, value in weights.items()}


@pytest.fixture(scope="module", params=["untied", "tied", "gpt2"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Over models whose frozen embeddings are two matrices, or one of two names."""
    if request.param == "gpt2":
        return Setup(tiny_folder(tmp_path_factory, "gpt2"))
    tied = request.param == "tied"
    return Setup(tiny_folder(tmp_path_factory, "llama", tie_word_embeddings=tied))


def assert_equal(ours: Adapter, theirs: Adapter) -> None:
    assert set(ours) == set(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_it_starts_at_the_reference_and_descends(setup: Setup, tmp_path: Path) -> None:
    frozen = {name: value.clone() for name, value in setup.base.model.state_dict().items()}
    result, _ = setup.run(tmp_path, settings={"steps": 30})
    first = result.metrics.iloc[0]
    assert result.initial_loss == pytest.approx(math.log(2), abs=1e-6)
    assert abs(first["margin"]) < 1e-4
    assert result.metrics["loss"].iloc[-1] < 0.6
    assert_equal(setup.base.model.state_dict(), frozen)


def test_nothing_of_one_trial_is_left_in_the_next(setup: Setup, tmp_path: Path) -> None:
    """In any order, in one process, over one model."""
    trials = [("dpo", 0), ("kto", 1), ("ipo", 0)]
    forth = {trial: setup.run(tmp_path, trial[0], seed=trial[1]) for trial in trials}
    back = {trial: setup.run(tmp_path, trial[0], seed=trial[1]) for trial in reversed(trials)}
    for trial, (result, weights) in forth.items():
        pd.testing.assert_frame_equal(back[trial][0].metrics, result.metrics, check_exact=True)
        assert_equal(back[trial][1], weights)


def test_accumulation_changes_nothing(setup: Setup, tmp_path: Path) -> None:
    """Eight passes of one pair give the step of one pass of eight."""
    whole, weights = setup.run(tmp_path)
    split, found = setup.run(tmp_path, settings={"pairs_per_pass": 1})
    for name, value in found.items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-5)
    # Before the first step every margin is 0 up to rounding, and its sign is no result.
    for metrics in (split.metrics, whole.metrics):
        metrics.loc[metrics["step"] == 0, "accuracy"] = 0.5
    pd.testing.assert_frame_equal(split.metrics, whole.metrics, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", ["dpo", "bco"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(
    setup: Setup, tmp_path: Path, loss: str
) -> None:
    whole, weights = setup.run(tmp_path / "whole", loss)
    with pytest.raises(StoppedError):
        setup.run(tmp_path / "parts", loss, control=stop_after(2))
    setup.run(tmp_path / "other", seed=5)
    assert setup.trainer(tmp_path / "parts", loss).first_step == 2
    result, found = setup.run(tmp_path / "parts", loss)
    assert_equal(found, weights)
    pd.testing.assert_frame_equal(result.metrics, whole.metrics, check_exact=True)


def test_checkpoint_and_optimizer_hold_the_adapter_alone(setup: Setup, tmp_path: Path) -> None:
    trainer = setup.trainer(tmp_path, settings={"checkpoint_seconds": 0})
    trainer.run()
    saved = Checkpoint.load(tmp_path / "checkpoint.pt")
    assert saved is not None
    adapter = {name for name in setup.backend.model.state_dict() if ".lora_" in name}
    assert saved.state is not None
    (file,) = saved.state.glob("*.safetensors")
    with safe_open(file, "pt") as tensors:
        names = set(tensors.keys())
    assert {name.removeprefix("model.") for name in names if name.startswith("model.")} == adapter
    states = {name.split(".")[1] for name in names if name.startswith("optimizer.")}
    assert len(states) == len(adapter)
