"""Where workers live: the seam between the pool, which shares out trials, and what runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from dpo_bench.errors import TrialError
from dpo_bench.notes import Note
from dpo_bench.sweep.executors.machines import Machine
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.worker import Event, Job, Ready

ExecutorName = Literal["local", "ray"]


class WorkerDiedError(TrialError):
    """A worker was killed or crashed, or its machine is gone."""


Message = Event | Ready | Note | Exception
"""What a worker sends; after a `WorkerDiedError` nothing more comes from it."""


WAITING = "waiting for a place in the cluster"
"""How a worker's progress begins that has not been started yet: nothing is expected of it."""


class Channel(Protocol):
    """The pool's end of the line to one worker. No call on a dead worker's channel fails."""

    def send(self, task: Task) -> None:
        """Give the worker a task."""

    def stop(self) -> None:
        """Ask it to save what it is at and to end; returns at once."""

    def join(self, seconds: float) -> bool:
        """Wait until it has ended, at most so long; returns whether it has."""

    def place(self) -> str:
        """The line of code that it is at, for people; empty where that cannot be had."""

    def kill(self) -> None:
        """End it now."""


class Executor(Protocol):
    """Starts workers and passes on what they send."""

    def machines(self) -> list[Machine]:
        """The machines that workers can run on."""

    def spawn(self, job: Job) -> Channel:
        """Start a worker; it says `Ready`, or what is wrong, when it has prepared itself."""

    def listen(self, seconds: float) -> Sequence[tuple[Channel, Message]]:
        """What the workers have sent since the last call; waits for the first message so long."""
