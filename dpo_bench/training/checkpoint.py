"""Checkpoints: everything that a run needs to go on bit by bit as if it had never stopped."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpo_bench.storage import write_atomic


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of a run after some steps.

    Attributes:
        step: the next step to make.
        model: the policy's weights by name, without those that are frozen.
        optimizer: the optimizer's own state.
        metrics: the metrics of the steps made so far, shape [step, metric].
        seconds: training time so far.
        expected: what the first step's loss had to be at the reference; None where unknown.
        needs: running state behind what the loss needs, by need.
        reference: weights of a reference that follows the policy; else nothing.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    metrics: Tensor
    seconds: float
    expected: float | None
    needs: dict[str, dict[str, Tensor]]
    reference: dict[str, Tensor]

    def save(self, file: Path) -> None:
        """Write it atomically: a checkpoint is there whole or is the one before."""
        buffer = io.BytesIO()
        state = {name: getattr(self, name) for name in self.__slots__}
        torch.save(state, buffer)
        write_atomic(file, buffer.getvalue())

    @classmethod
    def load(cls, file: Path) -> Checkpoint | None:
        """The checkpoint of this file; None when there is none that is whole."""
        if not file.is_file():
            return None
        try:
            return cls(**torch.load(file, weights_only=True, map_location="cpu"))
        except (RuntimeError, EOFError, TypeError, OSError):
            return None  # damaged on disk: the run starts again from its first step
