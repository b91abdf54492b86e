"""A worker: loads model and data once, then does one trial after another.

It is told what to do, and tells how it goes, through one pipe of its own. Nothing is shared between
workers, so the death of one harms no other.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dpo_bench.disk import storage_error
from dpo_bench.errors import DpoBenchError, EnvironmentProblem, TrialError
from dpo_bench.notes import heard
from dpo_bench.progress import SAVING, TRAINING, Control
from dpo_bench.storage import cache_root

if TYPE_CHECKING:
    from dpo_bench.experiment import Experiment
    from dpo_bench.model.ranks import Ranks
    from dpo_bench.sweep.context import WorkerContext
    from dpo_bench.sweep.sources import Sources

log = logging.getLogger(__name__)

SECONDS_BETWEEN_EVENTS = 0.2


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to start: the same for all workers of a sweep.

    Attributes:
        experiment: the resolved configuration.
        sources: where model and data are.
        folder: the sweep's folder.
        plugins: folders of further losses.
        losses: those that the user's script or notebook defines; see `registry.losses_of_script`.
        threads: torch threads of each worker.
        note_level: of `logging`, from which notes are wanted.
    """

    experiment: Experiment
    sources: Sources
    folder: Path
    plugins: tuple[Path, ...]
    losses: bytes
    threads: int
    note_level: int = logging.INFO


@dataclass(frozen=True, slots=True)
class Event:
    """What a worker tells.

    Attributes:
        kind: ``progress`` of a phase; of a trial ``ended``, ``stopped`` early, or ``left``: it
            ended and the worker with it.
        text: the phase, or why the trial failed or was stopped, empty when it went well.
        done: of the phase.
        total: of the phase.
    """

    kind: str
    text: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded or prepared model and data.

    Attributes:
        counts: what became of the preference data; see `Inputs.counts`.
        reference: folder of the reference's evaluation.
        computing: how log-probs are computed and responses sampled; see `WorkerContext.computing`.
    """

    counts: dict[str, Any]
    reference: Path
    computing: dict[str, str]


class Pipe(Protocol):
    """The worker's end of the line to its pool; `multiprocessing.connection.Connection` is one."""

    def send(self, message: Any, /) -> None:
        """Say something. Raises BrokenPipeError or ConnectionResetError when nobody listens."""

    def recv(self) -> Any:
        """Wait for a task; None is the last. Raises EOFError or ConnectionResetError likewise."""


class _Voice:
    """Sends progress now and then, and ends the process when nobody listens or a stop is asked.

    It ends by SystemExit, which no handler of a trial's errors takes for a failure of the trial.
    While training, the stop is the trainer's to make: it saves a checkpoint first.
    """

    def __init__(self, pipe: Pipe, should_stop: Callable[[], bool]) -> None:
        self.pipe = pipe
        self.should_stop = should_stop
        self.last = 0.0
        self.phase = ""

    def progress(self, phase: str, done: int, total: int) -> None:
        if self.should_stop():
            if phase == SAVING:
                self.send(Event("progress", phase, done, total))
            elif phase != TRAINING:
                raise SystemExit
            return
        now = time.monotonic()
        if phase != self.phase or done == total or now - self.last > SECONDS_BETWEEN_EVENTS:
            self.last, self.phase = now, phase
            self.send(Event("progress", phase, done, total))

    def send(self, message: object) -> None:
        try:
            self.pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise SystemExit from None


def work(
    pipe: Pipe,
    job: Job,
    should_stop: Callable[[], bool],
    meet: Callable[[], Ranks] | None = None,
) -> None:
    """Be a worker until there is nothing more to do.

    Args:
        pipe: the line to the pool.
        job: what to prepare.
        should_stop: whether to save and end.
        meet: gives the processes that hold the models together, of which this one leads; None: it
            is alone. The others follow (`Ranks.follow`) until this one ends.
    """
    voice = _Voice(pipe, should_stop)
    with heard(voice.send, job.note_level):
        context = _prepare(job, voice, meet)
        if context is not None:
            _serve(context, job, voice)
            context.ranks.end()


def load_losses(plugins: Sequence[Path], losses: bytes, threads: int) -> None:
    """Have what a job's trials need besides model and data; on all ranks.

    Args:
        plugins: folders of further losses.
        losses: those of the user's script; see `Job`.
        threads: of torch.
    """
    import torch

    from dpo_bench.contract import load_plugins
    from dpo_bench.contract.registry import accept_losses

    torch.set_num_threads(threads)
    for folder in plugins:
        load_plugins(folder)
    accept_losses(losses)


def _prepare(job: Job, voice: _Voice, meet: Callable[[], Ranks] | None) -> WorkerContext | None:
    from dpo_bench.model.allocator import use_expandable_segments
    from dpo_bench.model.ranks import Ranks
    from dpo_bench.sweep.context import WorkerContext

    try:
        use_expandable_segments()
        ranks = meet() if meet else Ranks()
        ranks.call(load_losses, job.plugins, job.losses, job.threads)
        context = WorkerContext(job.experiment, job.sources, voice.progress, ranks)
        _ = context.training_reference  # had now, so that what is wrong with the data is said now
    except DpoBenchError as error:
        voice.send(error)
        return None
    except Exception as error:  # whatever a model's own code or a disk stumbles over
        log.debug("%s", "".join(traceback.format_exception(error)))
        voice.send(EnvironmentProblem(_why(error)))
        return None
    voice.send(Ready(context.inputs.counts, context.reference_folder, context.computing))
    return context


def _why(error: Exception) -> str:
    """Why a worker could not start, in a line."""
    if isinstance(error, OSError) and error.strerror:
        return f"a worker could not start: {storage_error(cache_root(), error, cache_root())}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return (
        f"a worker could not start: {type(error).__name__}: {text} ({Path(frame.filename).name}, "
        f"line {frame.lineno}; --verbose shows where it came from)."
    )


def _serve(context: WorkerContext, job: Job, voice: _Voice) -> None:
    from dpo_bench.sweep.trials import run_trial
    from dpo_bench.training.trainer import StoppedError

    control = Control(voice.progress, voice.should_stop)
    while not voice.should_stop():
        try:
            task = voice.pipe.recv()
        except (EOFError, ConnectionResetError):
            return  # the sweep is gone
        if task is None:
            return
        try:
            ended = run_trial(context, job.folder, task, control)
        except StoppedError:
            return
        except EnvironmentProblem as problem:
            voice.send(problem)
            return
        if ended.status == "failed" and not _can_go_on(context):
            voice.send(Event("left", ended.reason))
            return
        kind = "stopped" if ended.status == "stopped" else "ended"
        voice.send(Event(kind, ended.reason))


def _can_go_on(context: WorkerContext) -> bool:
    """Whether a process can do another trial after one that failed.

    After an illegal access or a failed assertion a GPU's context gives an error at every call. A
    lack of memory is over with its trial.
    """
    import torch

    try:
        context.ranks.require_others()
        torch.ones(1, device=context.sources.device).add(1).item()
    except (TrialError, RuntimeError):
        return False
    return True
