"""Sharing out trials among workers, wherever those run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dpo_bench.notes import Note
from dpo_bench.sweep.display import Display
from dpo_bench.sweep.executors.base import Channel, Executor, Message, WorkerDiedError
from dpo_bench.sweep.schedule import Schedule
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.worker import Event, Job, Ready

SECONDS_TO_STOP = 60.0


@dataclass(slots=True, eq=False)
class _Worker:
    index: int
    channel: Channel
    task: Task | None = None


class Pool:
    """Runs tasks on workers.

    What a message costs does not grow with the number of workers: nothing here looks at all of them
    but the start and the end.

    Args:
        executor: makes the workers.
        job: what every worker needs.
        workers: how many.
        schedule: says what to do.
        display: where progress is shown.
        on_ready: called once, when the first worker has prepared model and data.
        on_note: called with what a worker has to say.
        on_death: called with a task whose worker died and with the reason.
    """

    def __init__(
        self,
        executor: Executor,
        job: Job,
        workers: int,
        schedule: Schedule,
        display: Display,
        *,
        on_ready: Callable[[Ready], None],
        on_note: Callable[[Note], None],
        on_death: Callable[[Task, WorkerDiedError], None],
    ) -> None:
        self.executor = executor
        self.job = job
        self.size = workers
        self.display = display
        self.on_ready = on_ready
        self.on_note = on_note
        self.on_death = on_death
        self.workers: dict[Channel, _Worker] = {}
        self.idle: dict[_Worker, None] = {}
        self.busy = 0
        self.schedule = schedule
        self.has_begun = False

    def run(self) -> None:
        """Do all that the schedule gives.

        Raises:
            DpoBenchError: model or data cannot be used; raised by the first worker's preparation.
            WorkerDiedError: no worker is left.
            KeyboardInterrupt: Ctrl-C; running trials have been saved first.
        """
        try:
            # The first worker prepares what all share and fills the caches; the others find it.
            self._spawn(0)
            while not self.schedule.is_over or self.busy:
                for channel, message in self.executor.listen(1.0):
                    self._handle(self.workers[channel], message)
        except BaseException:
            if self.busy:
                self.display.note("stopping: saving the running trials (Ctrl-C again: at once)")
            raise
        finally:
            self._shutdown()

    def _spawn(self, index: int) -> None:
        channel = self.executor.spawn(self.job)
        self.workers[channel] = _Worker(index, channel)

    def _handle(self, worker: _Worker, message: Message) -> None:
        if isinstance(message, WorkerDiedError):
            self._died(worker, message)
        elif isinstance(message, Exception):
            raise message
        elif isinstance(message, Ready):
            self._ready(worker, message)
        elif isinstance(message, Note):
            self.on_note(message)
        elif message.kind == "progress":
            self._show(worker, message)
        elif worker.task is not None:
            is_stopped = message.kind == "stopped"
            self._ended(worker, worker.task, message.text or None, stopped=is_stopped)
            if message.kind == "left":  # it can do no more trials
                self._dismiss(worker)
                self._replace(worker)
            else:
                self.idle[worker] = None
            self._assign_all()

    def _show(self, worker: _Worker, event: Event) -> None:
        """A trial's progress, or that of the first worker's preparation."""
        if worker.task is not None:
            label = worker.task.trial.label
            self.display.trial(worker.index, label, event.text, event.done, event.total)
        elif worker.index == 0:
            self.display.phase(event.text, event.done, event.total)

    def _ready(self, worker: _Worker, message: Ready) -> None:
        if not self.has_begun:  # once, also when the first worker dies and is replaced
            self.has_begun = True
            self.on_ready(message)
            self.display.start(self.schedule.expected)
            for index in range(1, min(self.size, self.schedule.expected)):
                self._spawn(index)
        self.idle[worker] = None
        self._assign_all()

    def _ended(
        self, worker: _Worker, task: Task, reason: str | None, *, stopped: bool = False
    ) -> None:
        worker.task = None
        self.busy -= 1
        self.display.finished(task.trial.label, reason, stopped=stopped)
        self.schedule.finished(task)

    def _assign_all(self) -> None:
        """Give a trial to everyone who waits: what one has ended may be what others wait for."""
        while self.idle and (task := self.schedule.take()) is not None:
            worker = next(iter(self.idle))  # who has waited longest
            del self.idle[worker]
            worker.task = task
            self.busy += 1
            worker.channel.send(task)

    def _dismiss(self, worker: _Worker) -> None:
        worker.channel.kill()
        del self.workers[worker.channel]
        self.idle.pop(worker, None)

    def _replace(self, worker: _Worker) -> None:
        """Another worker takes the place of one that is gone."""
        if not self.schedule.is_over:
            self._spawn(worker.index)

    def _died(self, worker: _Worker, reason: WorkerDiedError) -> None:
        """A worker has died: its trial fails, and another worker takes its place.

        One that died before its first trial is not replaced: the next would die of the same.
        """
        self._dismiss(worker)
        if worker.task is None:
            if not self.workers:
                raise reason
            self.display.note(f"{reason} The others go on.")
            return
        self.on_death(worker.task, reason)
        self._ended(worker, worker.task, str(reason))
        self._replace(worker)
        self._assign_all()

    def _shutdown(self) -> None:
        """Let all save and end; who does not in time, or at a second Ctrl-C, is killed."""
        deadline = time.monotonic() + SECONDS_TO_STOP
        try:
            for channel in self.workers:
                channel.stop()
            for channel in self.workers:
                channel.join(max(0.0, deadline - time.monotonic()))
        finally:
            for channel in self.workers:
                channel.kill()
