"""The one worker of a sweep that a launcher (torchrun, Slurm) has started as several processes.

The launcher sets torch's variables (``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``) and
runs the same command on every rank. The first plans the sweep and leads; the others follow. They
hold the models together, so trials are done one after another.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.launcher import launched_size
from dpo_bench.sweep.executors.base import Message, WorkerDiedError
from dpo_bench.sweep.executors.machines import Machine, count_gpus, this_machine
from dpo_bench.sweep.executors.mailbox import InboxWorker
from dpo_bench.sweep.worker import Job

if TYPE_CHECKING:
    from dpo_bench.model.ranks import Ranks
    from dpo_bench.sweep.task import Task


def join_launched() -> Ranks:
    """Meet the processes that the launcher has started.

    Raises:
        EnvironmentProblem: there are fewer GPUs on this machine than processes.
    """
    from dpo_bench.model.ranks import Ranks

    rank, size, gpus = int(os.environ["RANK"]), launched_size(), count_gpus()
    gpu = int(os.environ.get("LOCAL_RANK", rank)) if gpus else None
    if gpu is not None and gpu >= gpus:
        raise EnvironmentProblem(
            f"the launcher started a process for GPU {gpu}, and this machine has {gpus}: start one "
            "process for each GPU."
        )
    return Ranks.join(rank, size, "env://", gpu)


class LaunchedChannel:
    """The line to the worker, which is a thread of this process."""

    def __init__(self, worker: InboxWorker, thread: threading.Thread) -> None:
        self.worker = worker
        self.thread = thread
        self.is_over = False

    def send(self, task: Task) -> None:
        """Give the worker a task."""
        self.worker.send(task)

    def stop(self) -> None:
        """Ask for the end."""
        self.worker.stop()

    def join(self, seconds: float) -> bool:
        """Wait for the end of its work; returns whether that has come."""
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def place(self) -> str:
        """Not known."""
        return ""

    def kill(self) -> None:
        """Listen no more; the thread ends with the process."""
        self.is_over = True


class LaunchedExecutor:
    """Starts the worker."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.channels: list[LaunchedChannel] = []

    def machines(self) -> list[Machine]:
        """A machine with a place for one worker."""
        return [Machine(self.ranks.size, self.ranks.size, this_machine().memory)]

    def spawn(self, job: Job) -> LaunchedChannel:
        """Begin to work.

        Raises:
            EnvironmentProblem: it has been begun before: what broke cannot be begun anew from here.
        """
        if self.channels:
            raise EnvironmentProblem(
                "the processes that hold the model no longer answer each other: start the same "
                "command again, it goes on from here."
            )
        worker = InboxWorker()
        thread = threading.Thread(target=worker.work, args=(job, lambda: self.ranks), daemon=True)
        thread.start()
        self.channels.append(LaunchedChannel(worker, thread))
        return self.channels[-1]

    def listen(self, seconds: float) -> Sequence[tuple[LaunchedChannel, Message]]:
        """What the worker has said."""
        channels = [channel for channel in self.channels if not channel.is_over]
        found: list[tuple[LaunchedChannel, Message]] = []
        for channel in channels:
            is_alive = channel.thread.is_alive()
            found += [(channel, message) for message in channel.worker.receive(seconds)]
            if not found and not is_alive:
                channel.is_over = True
                found.append((channel, WorkerDiedError("the worker ended.")))
        return found


def launched_executor() -> contextlib.AbstractContextManager[LaunchedExecutor]:
    """An executor on the processes of the launcher, which are met now and let go at the exit."""
    ranks = join_launched()
    atexit.register(ranks.end)
    return contextlib.nullcontext(LaunchedExecutor(ranks))
