"""Training in bf16 with fp32 masters: where it starts, what it keeps, how it goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dpo_bench import get_loss
from dpo_bench.experiment.config import LoRA
from dpo_bench.model.load import load_model
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.logprobs import choose_backend
from dpo_bench.model.lora import reset_adapter, with_adapter
from dpo_bench.model.narrow_weights import narrow_weights
from dpo_bench.training.reference_model import CachedReference
from dpo_bench.training.trainer import StoppedError, Trainer
from tests.training.test_trainer import PAIRS, SETTINGS, stop_after


class Narrow:
    """A policy in bf16 with its masters, and its reference in bf16."""

    def __init__(self, folder: Path, *, lora: bool = False) -> None:
        self.reference = self.load(folder)
        self.reference.model.requires_grad_(requires_grad=False)
        narrow_weights(self.reference)
        self.policy = (
            with_adapter(self.reference, LoRA(rank=2), "base") if lora else self.load(folder)
        )
        narrow_weights(self.policy)
        if lora:
            with self.policy.full_precision():
                reset_adapter(self.policy.model, 0)
        self.cached = CachedReference(self.reference, PAIRS, str(folder), "cpu/bf16")

    @staticmethod
    def load(folder: Path) -> LogprobBackend:
        return choose_backend(load_model(folder, "cpu"), "bf16", 24)

    def trainer(self, checkpoint: Path, loss: str = "dpo", **options: Any) -> Trainer:
        settings = SETTINGS.model_copy(update=options.pop("settings", {}))
        return Trainer(
            self.policy,
            get_loss(loss),
            pairs=PAIRS,
            reference=self.cached,
            settings=settings,
            seed=0,
            checkpoint=checkpoint,
            **options,
        )


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("loss", ["dpo", "ipo", "aot", "tdpo2"])
def test_the_policy_starts_at_its_reference_exactly(
    llama_folder: Path, tmp_path: Path, loss: str, lora: bool
) -> None:
    result = Narrow(llama_folder, lora=lora).trainer(tmp_path / "run", loss).run()
    assert result.metrics["chosen_logratio"].iloc[0] == 0.0
    assert result.metrics["rejected_logratio"].iloc[0] == 0.0
    assert result.initial_loss == result.initial_loss_expected
    if loss == "dpo":
        assert result.initial_loss == pytest.approx(math.log(2), abs=1e-7)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_after_a_step_weights_are_their_masters_rounded(
    llama_folder: Path, tmp_path: Path, optimizer: str
) -> None:
    setup = Narrow(llama_folder)
    masters = setup.policy.optimized()
    before = {name: one.detach().clone() for name, one in masters.items()}
    setup.trainer(tmp_path / "run", settings={"optimizer": optimizer}).run()
    moved = 0
    for name, one in setup.policy.model.named_parameters():
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, masters[name].bfloat16())
        moved += not torch.equal(masters[name], before[name])
    assert moved == len(masters)


def test_steps_too_small_for_bf16_add_up_in_the_masters(llama_folder: Path, tmp_path: Path) -> None:
    """At this rate a step moves a weight by a thousandth of what bf16 can tell apart."""
    setup = Narrow(llama_folder)
    with setup.policy.full_precision():
        before = [one.detach().clone() for one in setup.policy.model.parameters()]
    setup.trainer(tmp_path / "run", settings={"learning_rate": 1e-7, "schedule": "constant"}).run()
    with setup.policy.full_precision():
        for start, one in zip(before, setup.policy.model.parameters(), strict=True):
            moved = (one - start).abs().max()
            assert 0 < moved < 1e-6


@pytest.mark.parametrize("lora", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(
    llama_folder: Path, tmp_path: Path, lora: bool
) -> None:
    whole = Narrow(llama_folder, lora=lora)
    expected = whole.trainer(tmp_path / "whole").run().metrics

    with pytest.raises(StoppedError):
        Narrow(llama_folder, lora=lora).trainer(tmp_path / "run", control=stop_after(3)).run()
    resumed = Narrow(llama_folder, lora=lora)
    found = resumed.trainer(tmp_path / "run").run().metrics

    assert found.equals(expected)
    ours, theirs = (setup.policy.optimized() for setup in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_reference_that_follows_keeps_what_bf16_would_lose(
    llama_folder: Path, tmp_path: Path
) -> None:
    setup = Narrow(llama_folder)
    options = {"reference_sync_steps": 1, "reference_sync_rate": 1e-3, "learning_rate": 1e-5}
    trainer = setup.trainer(tmp_path / "run", settings=options)
    start = {
        name: one.detach().float().clone() for name, one in setup.reference.optimized().items()
    }
    trainer.run()
    following = trainer.update.reference
    assert following is not None
    with following.backend.full_precision():
        for name, one in following.backend.model.named_parameters():
            assert not torch.equal(one, start[name])
    for name, one in following.backend.model.named_parameters():
        assert one.dtype == torch.bfloat16, name
