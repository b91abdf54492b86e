"""The one trainer. It knows no loss by name: it hands every loss a `PairLogps` and descends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dpo_bench.contract import Loss, Objective, PairLogps
from dpo_bench.errors import DivergedError
from dpo_bench.model.logprobs import LogprobBackend
from dpo_bench.progress import SAVING, TRAINING, Control
from dpo_bench.training.checkpoint import Checkpoint
from dpo_bench.training.optimizer import learning_rate
from dpo_bench.training.reference_model import CachedReference, SyncedReference
from dpo_bench.training.step_metrics import (
    CONTINUED,
    METRICS,
    REFERENCE_METRICS,
    MetricLog,
)
from dpo_bench.training.update import PolicyUpdate, begin

if TYPE_CHECKING:
    import pandas as pd

    from dpo_bench.data.tokenized import TokenizedPairs
    from dpo_bench.experiment.config import Training

PairLoss = Callable[[PairLogps], Tensor]
AfterStep = Callable[[int, int], None]
"""Called as ``after_step(done, total)``; its time is not training time."""

log = logging.getLogger(__name__)

FEWEST_STEPS = 30


class StoppedError(Exception):
    """Training was asked to stop; its checkpoint is written."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a finished run leaves besides the trained policy.

    Attributes:
        metrics: a row per step; see `MetricLog.table`.
        initial_loss: mean loss of the first step's pairs before any update.
        initial_loss_expected: the same with the policy's log-probs replaced by the reference's:
            what ``initial_loss`` must be when the policy starts at the reference. None where the
            reference's log-probs were not computed.
        steps: optimizer steps made.
        seconds: training time, interruptions left out.
    """

    metrics: pd.DataFrame
    initial_loss: float
    initial_loss_expected: float | None
    steps: int
    seconds: float


def number_of_steps(settings: Training, pairs: int) -> int:
    """Optimizer steps of a run: as given, or enough for the epochs.

    When nothing is given it is one epoch, but at least `FEWEST_STEPS`: on a small set of pairs one
    epoch would leave the policy where it was.
    """
    if settings.steps is not None:
        return settings.steps
    epoch = pairs / settings.pairs_per_step
    if settings.epochs is None:
        return max(FEWEST_STEPS, round(epoch))
    return max(1, round(settings.epochs * epoch))


class Trainer:
    """Trains one policy with one loss, from the path's present weights.

    Args:
        backend: the policy with its kernel path; its weights are changed in place.
        loss: what is minimized: a loss at its defaults, an `Objective`, or a plain function of a
            record that needs nothing beyond it.
        pairs: the training pairs.
        reference: the reference, for the same pairs. None, for a loss that does not read it, saves
            its forward passes; the metrics that are relative to it are then left out.
        settings: the trainer's settings.
        seed: sets the order of the pairs.
        checkpoint: folder that a run resumes from and is saved to.
        control: told and asked after every step; when it says stop, the run is saved and
            `StoppedError` raised.
        after_step: called after every step, before the step can be saved: whatever it keeps is
            there when a run is resumed behind it. It must leave weights and gradients alone.
    """

    def __init__(
        self,
        backend: LogprobBackend,
        loss: Objective | Loss | PairLoss,
        *,
        pairs: TokenizedPairs,
        reference: CachedReference | None,
        settings: Training,
        seed: int,
        checkpoint: Path,
        control: Control | None = None,
        after_step: AfterStep | None = None,
    ) -> None:
        objective = _objective(loss)
        self.settings = settings
        self.steps = number_of_steps(settings, len(pairs))
        if objective.needs_reference and reference is None:
            raise ValueError(f"{objective.name} reads the reference, and there is none")
        if reference is not None and settings.reference_sync_steps:
            reference = SyncedReference(reference, backend, settings)
            log.info(
                "the reference follows the policy every %d steps: its log-probs are not cached",
                settings.reference_sync_steps,
            )
        if reference is not None:
            reference.compute(objective.needs)
        self.ranks = backend.ranks
        rest = {
            "pairs": pairs,
            "reference": reference,
            "settings": settings,
            "steps": self.steps,
            "seed": seed,
        }
        self.update = self.ranks.call(begin, self.ranks, backend, objective, rest)
        self.checkpoint = checkpoint
        self.control = control or Control()
        self.after_step = after_step
        self.log = MetricLog()
        self.first_step = 0
        self.seconds = 0.0
        self.expected: float | None = None
        self._resume()

    def run(self) -> TrainingResult:
        """Make all steps.

        Raises:
            DivergedError: a loss or gradient norm stopped being finite.
            StoppedError: the control said so.
        """
        started = saved = time.monotonic()
        before = self.seconds
        for step in range(self.first_step, self.steps):
            self.log.add(self._step(step))
            self.control.progress(TRAINING, step + 1, self.steps)
            if (step + 1) % self.settings.log_every == 0:
                self.require_finite()
            now = time.monotonic()
            self.seconds = before + now - started
            if self.after_step is not None:
                self.after_step(step + 1, self.steps)
                started += time.monotonic() - now
            stop = self.control.should_stop()
            if stop:
                self.control.progress(SAVING, 0, 1)
            if stop or now - saved >= self.settings.checkpoint_seconds:
                self._save(step + 1)
                saved = now
            if stop:
                raise StoppedError
        self.require_finite()
        if self.seconds >= self.settings.checkpoint_seconds and self.first_step < self.steps:
            self._save(self.steps)  # so that an interrupted evaluation does not cost the training
        metrics = self.metrics()
        return TrainingResult(
            metrics, float(metrics["loss"].iloc[0]), self.expected, self.steps, self.seconds
        )

    def metrics(self) -> pd.DataFrame:
        """A row per step made so far: ``step`` from 0, each value as it was before the update.

        Columns that are relative to the reference are left out where there was none, and
        ``continued`` where the loss does not say where its formula is continued.
        """
        table = self.log.table().drop(columns=list(self._unmeasured()))
        table["learning_rate"] = [self._rate(step) for step in table["step"]]
        return table

    def _step(self, step: int) -> Tensor:
        """One optimizer step; returns its metrics, shape [metric], on the device."""
        found = self.ranks.call(PolicyUpdate.step, self.update, step)
        if len(found) > len(METRICS):
            self.expected = float(found[-1])
        return found[: len(METRICS)]

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.steps, self.settings)

    def require_finite(self) -> None:
        """Look at all steps so far.

        Raises:
            DivergedError: a loss, a gradient norm or what else is measured was not finite.
        """
        metrics = self.log.read()
        bad = (~metrics.isfinite() & self._measured()).nonzero()
        if len(bad):
            step, column = bad[0].tolist()
            before = f", {metrics[step - 1, 0]:.4g} one step earlier" if step else ""
            raise DivergedError(
                f"{METRICS[column]} stopped being finite at step {step} "
                f"(loss {metrics[step, 0]:.4g}{before}; learning rate {self._rate(step):.3g}): "
                "lower training.learning_rate or raise the loss's strength."
            )

    def _measured(self) -> Tensor:
        """Which metrics are measured, shape [metric]."""
        missing = self._unmeasured()
        return torch.tensor([name not in missing for name in METRICS])

    def _unmeasured(self) -> tuple[str, ...]:
        relative = () if self.update.reference is not None else REFERENCE_METRICS
        return relative if self.update.objective.continued else (*relative, CONTINUED)

    def _resume(self) -> None:
        found = Checkpoint.load(self.checkpoint)
        if found is None or found.state is None:
            return
        self.ranks.call(PolicyUpdate.load, self.update, found.state)
        self.log = MetricLog(found.metrics)
        self.first_step, self.seconds, self.expected = found.step, found.seconds, found.expected

    def _save(self, step: int) -> None:
        self.require_finite()
        found = Checkpoint(step, self.seconds, self.expected, self.log.read())
        found.save(
            self.checkpoint,
            lambda folder: self.ranks.call(PolicyUpdate.save, self.update, folder),
        )


def _objective(loss: Objective | Loss | PairLoss) -> Objective:
    if isinstance(loss, Objective):
        return loss
    return loss.at({}) if isinstance(loss, Loss) else Objective(loss)
