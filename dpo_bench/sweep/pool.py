"""Worker processes and the trials they are given."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from dpo_bench.errors import TrialError
from dpo_bench.experiment import Trial
from dpo_bench.sweep.display import Display
from dpo_bench.sweep.worker import Event, Job, Ready, work

Task = tuple[Trial, str]
SECONDS_TO_STOP = 60.0
PRELOAD = ["torch", "transformers.models.auto.modeling_auto", "dpo_bench.sweep.bench"]


class WorkerDiedError(TrialError):
    """A worker was killed or crashed."""


def process_context() -> BaseContext:
    """How workers are made: from a small server that has imported the heavy libraries once.

    A plain fork would copy the parent's threads in an unknown state, and breaks CUDA.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@dataclass(slots=True)
class _Worker:
    index: int
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    is_ready: bool = False


class Pool:
    """Runs tasks on worker processes.

    Args:
        job: what every worker needs.
        workers: how many.
        display: where progress is shown.
        on_ready: called once, when the first worker has prepared model and data.
        on_death: called with a task whose worker died and with the reason.
    """

    def __init__(
        self,
        job: Job,
        workers: int,
        display: Display,
        on_ready: Callable[[Ready], None],
        on_death: Callable[[Task, WorkerDiedError], None],
    ) -> None:
        self.job = job
        self.size = workers
        self.display = display
        self.on_ready = on_ready
        self.on_death = on_death
        self.context = process_context()
        self.workers: list[_Worker] = []
        self.waiting: deque[Task] = deque()

    def run(self, tasks: Sequence[Task]) -> None:
        """Do all tasks.

        Raises:
            DpoBenchError: model or data cannot be used; raised by the first worker's preparation.
            KeyboardInterrupt: Ctrl-C; running trials have been saved first.
        """
        self.waiting = deque(tasks)
        # The first worker prepares what all share and fills the caches; the others then find it.
        self._hire(0)
        try:
            while self.waiting or any(worker.task for worker in self.workers):
                self._listen()
            self._dismiss()
        except BaseException:
            self._stop()
            raise

    def _hire(self, index: int) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(  # type: ignore[attr-defined]  # every context has it
            target=work, args=(theirs, self.job), name=f"dpo-bench-{index}", daemon=True
        )
        process.start()
        theirs.close()
        self.workers.append(_Worker(index, process, ours))

    def _listen(self) -> None:
        ready = wait([worker.pipe for worker in self.workers], timeout=1.0)
        for worker in [worker for worker in self.workers if worker.pipe in ready]:
            try:
                message = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                self._bury(worker)
                continue
            self._hear(worker, message)

    def _hear(self, worker: _Worker, message: Event | Ready | Exception) -> None:
        if isinstance(message, Exception):
            raise message
        if isinstance(message, Ready):
            self._welcome(worker, message)
        elif message.kind == "progress":
            if worker.task is None:
                if worker.index == 0:
                    self.display.phase(message.text, message.done, message.total)
                return
            self.display.trial(
                worker.index, worker.task[0].label, message.text, message.done, message.total
            )
        elif worker.task is not None:
            self.display.finished(worker.task[0].label, message.text or None)
            self._assign(worker)

    def _welcome(self, worker: _Worker, message: Ready) -> None:
        first = not any(other.is_ready for other in self.workers)
        worker.is_ready = True
        if first:
            self.on_ready(message)
            self.display.start(len(self.waiting))
            for index in range(1, min(self.size, len(self.waiting))):
                self._hire(index)
        self._assign(worker)

    def _assign(self, worker: _Worker) -> None:
        worker.task = self.waiting.popleft() if self.waiting else None
        if worker.task is not None:
            worker.pipe.send(worker.task)

    def _bury(self, worker: _Worker) -> None:
        """A worker is gone without a word: its trial fails, and another worker takes its place."""
        worker.process.join()
        self.workers.remove(worker)
        reason = WorkerDiedError(f"the worker {_cause_of_death(worker.process.exitcode)}.")
        if worker.task is None:
            raise reason
        self.on_death(worker.task, reason)
        self.display.finished(worker.task[0].label, str(reason))
        if self.waiting:
            self._hire(worker.index)

    def _dismiss(self) -> None:
        for worker in self.workers:
            worker.pipe.send(None)
        for worker in self.workers:
            worker.process.join(SECONDS_TO_STOP)

    def _stop(self) -> None:
        """Ask all to save and end; who does not in time, or at a second Ctrl-C, is killed."""
        if any(worker.task for worker in self.workers):
            self.display.note("stopping: saving the running trials (Ctrl-C again: at once)")
        for worker in self.workers:
            if worker.is_ready and worker.task is None:
                with contextlib.suppress(OSError):
                    worker.pipe.send(None)
            worker.process.terminate()
        deadline = time.monotonic() + SECONDS_TO_STOP
        try:
            for worker in self.workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in self.workers:
                worker.process.kill()


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; was the memory full? Try fewer --workers" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with exit code {code}"
