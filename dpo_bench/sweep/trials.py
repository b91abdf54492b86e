"""One trial from its initial weights to its finished folder."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dpo_bench.contract import get_loss
from dpo_bench.errors import DivergedError, DpoBenchError, EnvironmentProblem
from dpo_bench.evaluation.calibration import implicit_scale
from dpo_bench.progress import Control
from dpo_bench.storage import write_json, write_parquet
from dpo_bench.sweep.checkpoints import CheckpointEvaluation
from dpo_bench.sweep.store import Manifest, Store, write_manifest
from dpo_bench.training.trainer import AfterStep, StoppedError, Trainer, TrainingResult

if TYPE_CHECKING:
    from dpo_bench.evaluation.policy import PolicyEvaluation
    from dpo_bench.experiment import PlannedTrial
    from dpo_bench.sweep.context import WorkerContext


def run_trial(
    context: WorkerContext, sweep: Path, trial: PlannedTrial, identity: str, control: Control
) -> str | None:
    """Train, evaluate and publish one trial.

    Whatever goes wrong in it becomes a failed trial in the folder, so that the others go on; but
    what would go wrong in every trial (a judge's revoked key or empty balance) is no trial's.

    Returns:
        None, or the error in one line.

    Raises:
        StoppedError: the control said so; the trial is resumed the next time.
        EnvironmentProblem: no trial can be done as things are; likewise.
    """
    store = Store(sweep)
    trainer: Trainer | None = None
    scale = implicit_scale(get_loss(trial.loss), trial)
    along = CheckpointEvaluation(context, store.evaluations(identity), scale, control.progress)
    try:
        trainer = _trainer(context, trial, store.checkpoint(identity), control, along.after_step)
        result = trainer.run()
        started = time.monotonic()
        evaluation = context.evaluator.evaluate(context.policy, control.progress, scale=scale)
        seconds = {
            "training": result.seconds,
            "evaluation": time.monotonic() - started,
            "checkpoints": along.seconds,
        }
        manifest = manifest_of(trial, identity, "done", seconds=seconds)
        with store.new_trial(identity) as folder:
            _write(folder, result, evaluation)
            along.publish(folder)
            if context.experiment.keep_policies:
                context.save_policy(folder / "policy")
            write_manifest(folder, manifest)
    except (StoppedError, EnvironmentProblem):
        raise
    except Exception as error:
        _publish_failure(store, trial, identity, error, trainer=trainer, along=along)
        return describe(error)
    store.checkpoint(identity).unlink(missing_ok=True)
    along.clear()
    return None


def describe(error: BaseException) -> str:
    """An error in one line, with its class unless it is one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DpoBenchError) else f"{type(error).__name__}: {text}"


def _trainer(
    context: WorkerContext,
    trial: PlannedTrial,
    checkpoint: Path,
    control: Control,
    after_step: AfterStep,
) -> Trainer:
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
        checkpoint=checkpoint,
        control=control,
        after_step=after_step,
    )


def manifest_of(trial: PlannedTrial, identity: str, status: str, **rest: object) -> Manifest:
    """A manifest with the trial's own fields filled in."""
    return Manifest(
        trial=identity,
        status=status,
        loss=trial.loss,
        strength=get_loss(trial.loss).strength,
        beta=trial.strength,
        hyperparameters=dict(trial.hyperparameters),
        seed=trial.seed,
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


def _publish_failure(
    store: Store,
    trial: PlannedTrial,
    identity: str,
    error: Exception,
    *,
    trainer: Trainer | None,
    along: CheckpointEvaluation,
) -> None:
    with store.new_trial(identity) as folder:
        along.publish(folder)
        if trainer is not None:
            write_parquet(folder / "training.parquet", trainer.metrics())
        trace = None
        if not isinstance(error, DivergedError):
            trace = "".join(traceback.format_exception(error))
        manifest = manifest_of(
            trial,
            identity,
            "failed",
            error=describe(error),
            cause=type(error).__name__,
            traceback=trace,
        )
        write_manifest(folder, manifest)
