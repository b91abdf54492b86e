"""Sharing out trials among workers, wherever those run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dpo_bench.notes import Note
from dpo_bench.progress import SAVING
from dpo_bench.sweep.display import Display
from dpo_bench.sweep.executors.base import WAITING, Channel, Executor, Message, WorkerDiedError
from dpo_bench.sweep.schedule import Schedule
from dpo_bench.sweep.silence import (
    SECONDS_UNTIL_NOTE,
    Silence,
    StalledError,
    TooLongError,
)
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.worker import Event, Job, Ready

SECONDS_TO_LISTEN = 1.0
SECONDS_TO_STOP = 2.0
"""Until a worker that has been asked to stop has to say something."""
SECONDS_BETWEEN_LOOKS = 0.1
TIMES_PACE = 3
"""One that mostly takes longer may take so many times its longest silence of the same phase."""
SECONDS_TO_SAVE = 600.0
"""For what one that says that it saves is waited, unless Ctrl-C is pressed again."""


STARTING = Event("progress", "starting")


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker as the pool knows it.

    Attributes:
        index: its place in the display.
        channel: the line to it.
        task: what it is at.
        begun: when it was given that.
        heard: when it last said something.
        pace: its longest silence in the phase that it is in.
        last: what it said of its progress.
        is_told: whether its present silence has been spoken of.
    """

    index: int
    channel: Channel
    heard: float
    task: Task | None = None
    begun: float = 0.0
    pace: float = 0.0
    last: Event = STARTING
    is_told: bool = False

    @property
    def waits(self) -> bool:
        """Whether it has no place yet, so that nothing is expected of it."""
        return self.last.text.startswith(WAITING) and self.last.done < self.last.total

    @property
    def where(self) -> str:
        """What it was at when it was last heard, for people."""
        count = f", {self.last.done} of {self.last.total}" if self.last.total else ""
        return f"{self.last.text}{count}"


class Pool:
    """Runs tasks on workers.

    What a message costs does not grow with the number of workers: nothing here looks at all of them
    but the start, the end, and once a second the watch over their silence.

    Args:
        executor: makes the workers.
        job: what every worker needs.
        workers: how many.
        schedule: says what to do.
        display: where progress is shown.
        on_ready: called once, when the first worker has prepared model and data.
        on_note: called with what a worker has to say.
        on_death: called with a task whose worker died and with the reason.
        silence: the clock by which they are watched, and after how long one is given up.
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
        silence: Silence | None = None,
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
        self.silence = silence or Silence()
        self.watched = 0.0

    def run(self) -> None:
        """Do all that the schedule gives; of a schedule that is over, prepare what trials share.

        Raises:
            DpoBenchError: model or data cannot be used; raised by the first worker's preparation.
            WorkerDiedError: no worker is left.
            KeyboardInterrupt: Ctrl-C; running trials have been saved first.
        """
        try:
            # The first worker prepares what all share and fills the caches; the others find it.
            self._spawn(0)
            while not self.has_begun or not self.schedule.is_over or self.busy:
                heard = self.executor.listen(SECONDS_TO_LISTEN)
                self.silence.tick()
                for channel, message in heard:
                    if channel in self.workers:  # else given up a moment ago
                        self._hear(self.workers[channel], message)
                self._watch()
        except BaseException:
            if self.busy:
                self.display.note("stopping: saving the running trials (Ctrl-C again: at once)")
            raise
        finally:
            self._shutdown()

    def _spawn(self, index: int) -> None:
        channel = self.executor.spawn(self.job)
        self.workers[channel] = _Worker(index, channel, self.silence.now)

    def _hear(self, worker: _Worker, message: Message) -> None:
        """Handle a message, and keep in mind that the worker is alive."""
        silent = self.silence.broken(worker.heard) if self._is_expected(worker) else 0.0
        if isinstance(message, Event) and message.kind == "progress":
            if message.text != worker.last.text:
                worker.pace = 0.0
            worker.last = message
        worker.pace = max(worker.pace, silent)
        worker.heard, worker.is_told = self.silence.now, False
        self._handle(worker, message)

    def _is_expected(self, worker: _Worker) -> bool:
        """Whether a worker is to say something: it has work, and a place to do it."""
        return worker not in self.idle and not worker.waits

    def _watch(self) -> None:
        """Give up workers that hang or take too long, and say which are silent."""
        now = self.silence.now
        if now - self.watched < SECONDS_TO_LISTEN:
            return
        self.watched = now
        for worker in filter(self._is_expected, list(self.workers.values())):
            silent, taken = now - worker.heard, now - worker.begun
            if silent > self.silence.limit:
                self._died(worker, StalledError(worker.where, silent, worker.channel.place()))
            elif worker.task is not None and taken > self.silence.limits.trial:
                self._died(worker, TooLongError(worker.where, taken))
            elif silent > SECONDS_UNTIL_NOTE and not worker.is_told:
                worker.is_told = True
                label = worker.task.trial.label if worker.task else "a worker"
                self.display.note(
                    f"{label} has said nothing for {silent:.0f} s ({worker.where}); it is given up "
                    f"after {self.silence.limit:.0f} s (--stall-timeout)"
                )

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
            worker.begun = worker.heard = self.silence.now
            worker.last = STARTING
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
        """Let all save and end; who does not answer in time, or at a second Ctrl-C, is killed."""
        waiting = dict(self.workers)
        try:
            for channel in waiting:
                channel.stop()
            asked = self.silence.tick()
            while waiting := {one: of for one, of in waiting.items() if not one.join(0.0)}:
                for channel, message in self.executor.listen(SECONDS_BETWEEN_LOOKS):
                    if isinstance(message, Event) and channel in waiting:
                        waiting[channel].last = message
                passed = self.silence.tick() - asked
                late = [one for one, of in waiting.items() if passed > _patience(of)]
                for channel in late:
                    channel.kill()
                    del waiting[channel]
        finally:
            for channel in self.workers:
                channel.kill()


def _patience(worker: _Worker) -> float:
    """Seconds for which a worker is waited for that has been asked to stop."""
    if worker.last.text == SAVING:
        return SECONDS_TO_SAVE
    return max(SECONDS_TO_STOP, min(TIMES_PACE * worker.pace, SECONDS_TO_SAVE))
