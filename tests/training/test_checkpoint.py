"""Checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from dpo_bench.training.checkpoint import Checkpoint


def checkpoint() -> Checkpoint:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return Checkpoint(
        step=7,
        model={"w": weight.detach()},
        optimizer=optimizer.state_dict(),
        metrics=torch.rand(7, 6),
        seconds=1.5,
        expected=0.25,
        needs={"mean_logratio": {"total": torch.rand(())}},
        reference={"w": torch.rand(3)},
    )


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    saved = checkpoint()
    saved.save(tmp_path / "c.pt")
    loaded = Checkpoint.load(tmp_path / "c.pt")
    assert loaded is not None
    assert (loaded.step, loaded.seconds) == (7, 1.5)
    assert torch.equal(loaded.model["w"], saved.model["w"])
    assert torch.equal(loaded.metrics, saved.metrics)
    assert loaded.expected == 0.25
    assert torch.equal(
        loaded.needs["mean_logratio"]["total"], saved.needs["mean_logratio"]["total"]
    )
    assert torch.equal(loaded.reference["w"], saved.reference["w"])
    moments = loaded.optimizer["state"][0]["exp_avg"]
    assert torch.equal(moments, saved.optimizer["state"][0]["exp_avg"])


def test_none_and_damaged_ones_mean_a_fresh_start(tmp_path: Path) -> None:
    file = tmp_path / "c.pt"
    assert Checkpoint.load(file) is None
    checkpoint().save(file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert Checkpoint.load(file) is None
    file.write_bytes(b"")
    assert Checkpoint.load(file) is None
