"""One trial from its initial weights to its finished folder."""

from __future__ import annotations

import logging
import shutil
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from dpo_bench.contract import get_loss
from dpo_bench.errors import DamagedError, DivergedError, DpoBenchError, EnvironmentProblem
from dpo_bench.evaluation.calibration import implicit_scale
from dpo_bench.experiment.config import OWN_KEYS
from dpo_bench.progress import Control
from dpo_bench.storage import is_published, read_record, remove, write_json, write_parquet
from dpo_bench.sweep.checkpoints import CheckpointEvaluation
from dpo_bench.sweep.early_stop import CHECKS, EarlyStop, StoppedEarlyError
from dpo_bench.sweep.store import Manifest, Store, write_manifest
from dpo_bench.training.trainer import StoppedError, Trainer, TrainingResult

if TYPE_CHECKING:
    from dpo_bench.evaluation.policy import PolicyEvaluation
    from dpo_bench.experiment import PlannedTrial
    from dpo_bench.experiment.config import Training
    from dpo_bench.sweep.context import WorkerContext
    from dpo_bench.sweep.task import Task


log = logging.getLogger(__name__)


class Ended(NamedTuple):
    """How a trial has ended.

    Attributes:
        status: as its manifest has it.
        reason: why it failed or was stopped, in one line; else empty.
    """

    status: Literal["done", "failed", "stopped"]
    reason: str = ""


def run_trial(context: WorkerContext, sweep: Path, task: Task, control: Control) -> Ended:
    """Train, evaluate and publish one trial.

    Whatever goes wrong in it becomes a failed trial in the folder, so that the others go on; but
    what would go wrong in every trial (a judge's revoked key or empty balance) is no trial's.

    Raises:
        StoppedError: the control said so; the trial is resumed the next time.
        EnvironmentProblem: no trial can be done as things are; likewise.
    """
    run = _Run(context, Store(sweep), task, control)
    try:
        run.finish()
    except (StoppedError, EnvironmentProblem):
        raise
    except StoppedEarlyError as stop:
        run.publish_stop(stop)
        run.clear()
        return Ended("stopped", str(stop))
    except Exception as error:
        found = run.divergence() or error
        run.publish_failure(found)
        return Ended("failed", describe(found))
    run.clear()
    return Ended("done")


class _Run:
    """One trial under way."""

    def __init__(self, context: WorkerContext, store: Store, task: Task, control: Control) -> None:
        self.context = context
        self.store = store
        self.trial, self.identity = task.trial, task.identity
        self.control = control
        self.trainer: Trainer | None = None
        folder = store.evaluations(task.identity)
        if not _is_whole(folder):
            log.warning(
                "what trial %s had kept along its training is damaged: it starts again",
                task.identity,
                extra={"passing": True},
            )
            remove(store.checkpoint(task.identity))
            remove(folder)
        self.scale = implicit_scale(get_loss(task.trial.loss), task.trial)
        self.along = CheckpointEvaluation(context, folder, self.scale, control.progress)
        self.early = EarlyStop(
            context.evaluator,
            context.policy,
            folder=folder,
            limit=task.kl_limit,
            progress=control.progress,
        )

    def finish(self) -> None:
        """Train, evaluate and publish."""
        context = self.context
        self.trainer = self._trainer()
        result = self.trainer.run()
        started = time.monotonic()
        evaluation = context.evaluator.evaluate(
            context.policy, self.control.progress, scale=self.scale
        )
        seconds = self._seconds(result.seconds) | {"evaluation": time.monotonic() - started}
        manifest = self._manifest("done", seconds=seconds)
        with self.store.new_trial(self.identity) as folder:
            _write(folder, result, evaluation)
            self.along.publish(folder)
            if context.experiment.keep_policies:
                context.save_policy(folder / "policy")
            write_manifest(folder, manifest)

    def publish_stop(self, stop: StoppedEarlyError) -> None:
        """Publish what there is of a trial that was stopped early."""
        if self.trainer is None:
            raise RuntimeError("a trial is stopped by what follows a step of its trainer")
        seconds = self.trainer.seconds
        manifest = self._manifest(
            "stopped",
            seconds=self._seconds(seconds),
            error=str(stop),
            stopped=stop.record(seconds),
        )
        self._publish(manifest)

    def publish_failure(self, error: Exception) -> None:
        """Publish what there is of a trial that failed."""
        trace = None
        if not isinstance(error, DivergedError):
            trace = "".join(traceback.format_exception(error))
        self._publish(
            self._manifest(
                "failed", error=describe(error), cause=type(error).__name__, traceback=trace
            )
        )

    def divergence(self) -> DivergedError | None:
        """Whether the training had diverged, whatever an evaluation then stumbled over."""
        try:
            if self.trainer is not None:
                self.trainer.require_finite()
        except DivergedError as error:
            return error
        return None

    def clear(self) -> None:
        """Forget what a trial under way keeps: it is published."""
        shutil.rmtree(self.store.checkpoint(self.identity), ignore_errors=True)
        self.along.clear()

    def _publish(self, manifest: Manifest) -> None:
        with self.store.new_trial(self.identity) as folder:
            self.along.publish(folder)
            if self.trainer is not None:
                write_parquet(folder / "training.parquet", self.trainer.metrics())
            write_manifest(folder, manifest)

    def _manifest(self, status: str, **rest: object) -> Manifest:
        training = self.context.experiment.training
        return manifest_of(self.trial, self.identity, status, training, **rest)

    def _seconds(self, training: float) -> dict[str, float]:
        checks = {} if self.early.limit is None else {"kl_checks": self.early.seconds}
        return {"training": training, "checkpoints": self.along.seconds, **checks}

    def _trainer(self) -> Trainer:
        context, trial = self.context, self.trial
        loss = get_loss(trial.loss)
        context.reset_policy(trial.seed)
        # Nothing here draws random numbers, but a user's loss may: then by the trial's seed.
        torch.manual_seed(trial.seed)
        pairs, reference = context.training_set(trial.seed)
        return Trainer(
            backend=context.policy,
            loss=loss.at(dict(trial.hyperparameters)),
            pairs=pairs,
            reference=reference,
            settings=trial.settings(context.experiment.training),
            seed=trial.seed,
            checkpoint=self.store.checkpoint(self.identity),
            control=self.control,
            after_step=self._after_step,
        )

    def _after_step(self, done: int, total: int) -> None:
        self.along.after_step(done, total)
        self.early.after_step(done, total)


def _is_whole(folder: Path) -> bool:
    """Whether all that a trial under way has kept along its training is as it was written.

    What is lost of it cannot be had again but by training again.
    """
    try:
        if (folder / CHECKS).exists():
            read_record(folder / CHECKS)
    except DamagedError:
        return False
    return all(is_published(one) for one in folder.glob("[0-9]*"))


def describe(error: BaseException) -> str:
    """An error in one line, with its class unless it is one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DpoBenchError) else f"{type(error).__name__}: {text}"


def manifest_of(
    trial: PlannedTrial, identity: str, status: str, training: Training, **rest: object
) -> Manifest:
    """A manifest with the trial's own fields filled in.

    Args:
        trial: the trial.
        identity: of it.
        status: see `Manifest`.
        training: the sweep's ``[training]``.
        rest: further fields, by name.
    """
    settings = trial.settings(training)
    return Manifest(
        trial=identity,
        status=status,
        loss=trial.loss,
        strength=get_loss(trial.loss).strength,
        beta=trial.strength,
        hyperparameters=dict(trial.hyperparameters),
        seed=trial.seed,
        training={key: getattr(settings, key) for key in OWN_KEYS},
        **rest,  # type: ignore[arg-type]  # the remaining fields, by name
    )


def _write(folder: Path, result: TrainingResult, evaluation: PolicyEvaluation) -> None:
    write_parquet(folder / "training.parquet", result.metrics)
    write_parquet(folder / "samples.parquet", evaluation.samples)
    write_parquet(folder / "heldout.parquet", evaluation.heldout)
    metrics = {name: estimate.as_dict() for name, estimate in evaluation.metrics.items()}
    write_json(
        folder / "evaluation.json",
        {
            "metrics": metrics,
            "initial_loss": result.initial_loss,
            "initial_loss_expected": result.initial_loss_expected,
            "steps": result.steps,
            "notes": dict(evaluation.notes),
        },
    )
