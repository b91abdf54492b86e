"""The one trainer. It knows no loss by name: it hands every loss a `PairLogps` and descends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dpo_bench.contract import PairLogps
from dpo_bench.data.batches import pad_batch, split_passes, step_order
from dpo_bench.errors import DivergedError
from dpo_bench.model.logps import LogpPath, sum_by_row, token_logps
from dpo_bench.progress import Control
from dpo_bench.training.checkpoint import Checkpoint
from dpo_bench.training.metrics import METRICS, MetricLog, pair_sums
from dpo_bench.training.optimiser import build_optimiser, learning_rate

if TYPE_CHECKING:
    import pandas as pd

    from dpo_bench.data.tokenised import TokenisedPairs
    from dpo_bench.experiment.config import Training
    from dpo_bench.model.reference_cache import ReferenceLogps

PairLoss = Callable[[PairLogps], Tensor]
AfterStep = Callable[[int, int], None]
"""Called as ``after_step(done, total)``; its time is not training time."""


class StoppedError(Exception):
    """Training was asked to stop; its checkpoint is written."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a finished run leaves besides the trained policy.

    Attributes:
        metrics: a row per step; see `MetricLog.table`.
        initial_loss: mean loss of the first step's pairs before any update.
        initial_loss_expected: the same with the policy's log-probs replaced by the reference's:
            what ``initial_loss`` must be when the policy starts at the reference.
        steps: optimiser steps made.
        seconds: training time, interruptions left out.
    """

    metrics: pd.DataFrame
    initial_loss: float
    initial_loss_expected: float
    steps: int
    seconds: float


def number_of_steps(settings: Training, pairs: int) -> int:
    """Optimiser steps of a run: as given, or enough for the epochs (one when nothing is given)."""
    if settings.steps is not None:
        return settings.steps
    return max(1, round((settings.epochs or 1.0) * pairs / settings.pairs_per_step))


class Trainer:
    """Trains one policy with one loss, from the path's present weights.

    Args:
        path: the policy with its kernel path; its weights are changed in place.
        loss: the loss of each pair, shape [pair], its hyperparameters already bound.
        pairs: the training pairs.
        reference: the reference's log-probs of the same pairs.
        settings: the trainer's settings.
        seed: sets the order of the pairs.
        checkpoint: file that a run resumes from and is saved to.
        control: told and asked after every step; when it says stop, the run is saved and
            `StoppedError` raised.
        after_step: called after every step, before the step can be saved: whatever it keeps is
            there when a run is resumed behind it. It must leave weights and gradients alone.
    """

    def __init__(
        self,
        path: LogpPath,
        loss: PairLoss,
        *,
        pairs: TokenisedPairs,
        reference: ReferenceLogps,
        settings: Training,
        seed: int,
        checkpoint: Path,
        control: Control | None = None,
        after_step: AfterStep | None = None,
    ) -> None:
        self.path = path
        self.loss = loss
        self.pairs = pairs
        self.reference = reference.to(path.device)
        self.chosen_tokens = torch.as_tensor(pairs.chosen_lengths, device=path.device)
        self.rejected_tokens = torch.as_tensor(pairs.rejected_lengths, device=path.device)
        self.settings = settings
        self.steps = number_of_steps(settings, len(pairs))
        self.order = step_order(len(pairs), settings.pairs_per_step, self.steps, seed)
        self.checkpoint = checkpoint
        self.control = control or Control()
        self.after_step = after_step
        self.optimiser = build_optimiser(path.model.parameters(), settings)
        self.log = MetricLog()
        self.first_step = 0
        self.seconds = 0.0
        self._resume()

    def run(self) -> TrainingResult:
        """Make all steps.

        Raises:
            DivergedError: a loss or gradient norm stopped being finite.
            StoppedError: the control said so.
        """
        expected = self._expected_initial_loss()
        started = saved = time.monotonic()
        before = self.seconds
        for step in range(self.first_step, self.steps):
            self.log.add(self._step(step, self.order[step]))
            self.control.progress("training", step + 1, self.steps)
            if (step + 1) % self.settings.log_every == 0:
                self._require_finite()
            now = time.monotonic()
            self.seconds = before + now - started
            if self.after_step is not None:
                self.after_step(step + 1, self.steps)
                started += time.monotonic() - now
            stop = self.control.should_stop()
            if stop or now - saved >= self.settings.checkpoint_seconds:
                self._save(step + 1)
                saved = now
            if stop:
                raise StoppedError
        self._require_finite()
        if self.seconds >= self.settings.checkpoint_seconds and self.first_step < self.steps:
            self._save(self.steps)  # so that an interrupted evaluation does not cost the training
        metrics = self.metrics()
        return TrainingResult(
            metrics, float(metrics["loss"].iloc[0]), expected, self.steps, self.seconds
        )

    def metrics(self) -> pd.DataFrame:
        """A row per step made so far: ``step`` from 0, each value as it was before the update."""
        table = self.log.table()
        table["learning_rate"] = [self._rate(step) for step in table["step"]]
        return table

    def _step(self, step: int, indices: Sequence[int]) -> Tensor:
        """One optimiser step; returns its metrics, shape [metric], on the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(step)
        self.optimiser.zero_grad(set_to_none=True)
        passes = []
        for part in split_passes(self.pairs, indices, self.settings.pairs_per_pass):
            logps = self._pair_logps(part, self._policy_logps(part))
            losses = self.loss(logps)
            # The mean is over the step's pairs, however many passes they take.
            (losses.sum() / len(indices)).backward()
            passes.append(pair_sums(losses, logps))
        norm = torch.nn.utils.clip_grad_norm_(
            self.path.model.parameters(), self.settings.max_gradient_norm
        )
        self.optimiser.step()
        sums = torch.stack(passes).sum(0) / len(indices)
        return torch.cat([sums, norm.detach().float()[None]])

    def _policy_logps(self, indices: Sequence[int]) -> Tensor:
        """Log-probs of the chosen, then of the rejected responses, shape [2 x pair]."""
        batch = pad_batch(self.pairs, indices).to(self.path.device)
        return sum_by_row(token_logps(self.path, batch), batch.lengths)

    def _pair_logps(self, indices: Sequence[int], policy: Tensor) -> PairLogps:
        index = torch.as_tensor(indices, device=self.path.device)
        chosen, rejected = policy.chunk(2)
        return PairLogps(
            policy_chosen=chosen,
            policy_rejected=rejected,
            reference_chosen=self.reference.chosen[index],
            reference_rejected=self.reference.rejected[index],
            chosen_tokens=self.chosen_tokens[index],
            rejected_tokens=self.rejected_tokens[index],
        )

    def _expected_initial_loss(self) -> float:
        indices = self.order[0]
        index = torch.as_tensor(indices, device=self.path.device)
        reference = torch.cat([self.reference.chosen[index], self.reference.rejected[index]])
        return float(self.loss(self._pair_logps(indices, reference)).mean())

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.steps, self.settings)

    def _require_finite(self) -> None:
        metrics = self.log.read()
        bad = (~metrics.isfinite()).nonzero()
        if len(bad):
            step, column = bad[0].tolist()
            before = f", {metrics[step - 1, 0]:.4g} one step earlier" if step else ""
            raise DivergedError(
                f"{METRICS[column]} stopped being finite at step {step} "
                f"(loss {metrics[step, 0]:.4g}{before}; learning rate {self._rate(step):.3g}): "
                "lower training.learning_rate or raise the loss's strength."
            )

    def _resume(self) -> None:
        state = Checkpoint.load(self.checkpoint)
        if state is None:
            return
        self.path.model.load_state_dict(state.model)
        self.optimiser.load_state_dict(state.optimiser)
        self.log = MetricLog(state.metrics)
        self.first_step, self.seconds = state.step, state.seconds

    def _save(self, step: int) -> None:
        self._require_finite()
        Checkpoint(
            step=step,
            model=self.path.model.state_dict(),
            optimiser=self.optimiser.state_dict(),
            metrics=self.log.read(),
            seconds=self.seconds,
        ).save(self.checkpoint)
