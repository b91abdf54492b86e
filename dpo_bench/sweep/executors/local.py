"""Workers as processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.sweep.executors.base import Message, WorkerDiedError
from dpo_bench.sweep.executors.machines import Machine, count_gpus, this_machine
from dpo_bench.sweep.executors.orphans import die_with_parent
from dpo_bench.sweep.executors.stacks import answer_into, place_of
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.worker import Job, work

if TYPE_CHECKING:
    from dpo_bench.model.ranks import Ranks

PRELOAD = "dpo_bench.sweep.preload"
VISIBLE = "CUDA_VISIBLE_DEVICES"
STACK = "stack.txt"


def process_context() -> BaseContext:
    """How workers are made: from a small server that has imported the heavy libraries once.

    A plain fork would copy the parent's threads in an unknown state, and breaks CUDA. A terminal
    sends Ctrl-C to the server, too, which while importing would die of it with a traceback: it is
    started deaf to it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    with _interrupts_ignored(), _safe_path():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """While this is open, Python does not look for modules in the working directory when started.

    It would look there first, so that a file could stand in for a library. Workers have the path of
    the process that starts them.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """While this is open Ctrl-C is ignored, here and for good by the processes that are started."""
    if threading.current_thread() is not threading.main_thread():
        yield  # the main thread alone may change what a signal does
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """While this is open, a process that is started does not import the user's script.

    It would run all of it again where the script has no ``if __name__ == "__main__":``. Workers
    need nothing of it: losses that are defined in it travel with the job.
    """
    main = sys.modules["__main__"]
    names = {"__file__", "__spec__"} & set(vars(main))
    before: dict[str, Any] = {name: vars(main).pop(name) for name in names}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(before)


class LocalChannel:
    """The line to a worker: one pipe to the process that leads it.

    Args:
        processes: the worker's; one for each GPU that holds a share of its models, the leading one
            first.
        pipe: to that.
        folder: where they meet, and where they write what they are at; removed with them.
        gpus: numbers of those that it has, among the ones that this process sees.

    Attributes:
        is_over: nothing more comes from it.
    """

    def __init__(
        self,
        processes: Sequence[BaseProcess],
        pipe: Connection,
        folder: Path,
        gpus: Sequence[int] = (),
    ) -> None:
        self.processes = processes
        self.pipe = pipe
        self.folder = folder
        self.gpus = gpus
        self.is_over = False

    def send(self, task: Task | None) -> None:
        """Give the worker a task, or None: no more of them."""
        with contextlib.suppress(OSError):  # dead; the pool is told next
            self.pipe.send(task)

    def stop(self) -> None:
        """Ask for the end: by a signal while it works, through the pipe while it waits."""
        self.send(None)
        self.processes[0].terminate()

    def join(self, seconds: float) -> bool:
        """Wait for the leading process's end; returns whether that has come."""
        self.processes[0].join(seconds)
        return not self.processes[0].is_alive()

    def place(self) -> str:
        """The line of code that the leading process is at."""
        return place_of(self.processes[0].pid or 0, self.folder / STACK)

    def kill(self) -> None:
        """End all of its processes now."""
        self.is_over = True
        for process in self.processes:
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def sources(self) -> list[Connection | int]:
        """What becomes readable when there is a message, or when a process is dead."""
        return [self.pipe, *(process.sentinel for process in self.processes[1:])]

    def receive(self) -> Message | None:
        """The next message; None where none is there after all."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionResetError):
            self.processes[0].join()
            return self._died(self.processes[0])
        # The others cannot go on without one of them, and would wait for it for minutes.
        lost = [one for one in self.processes[1:] if not one.is_alive()]
        leads = self.processes[0].is_alive()
        return self._died(lost[0]) if lost and leads else None

    def _died(self, process: BaseProcess) -> WorkerDiedError:
        self.kill()
        return WorkerDiedError(f"the worker {_cause_of_death(process.exitcode)}.")


class LocalExecutor:
    """Starts worker processes and passes on their messages. Nothing is shared between them.

    Args:
        context: how processes are made.
        gpus: how many this machine has; each is one worker's.
    """

    def __init__(self, context: BaseContext, gpus: int = 0) -> None:
        self.context = context
        self.gpus = gpus
        self.channels: list[LocalChannel] = []

    def machines(self) -> list[Machine]:
        """This machine."""
        return [this_machine(self.gpus)]

    def spawn(self, job: Job) -> LocalChannel:
        """Start a worker's processes."""
        size = job.experiment.training.gpus_per_trial
        gpus = self._free_gpus(size) if job.sources.device == "cuda" else ()
        folder = Path(tempfile.mkdtemp(prefix="dpo-bench-worker-"))
        ours, theirs = self.context.Pipe()
        processes = []
        for rank in range(size):
            place = Place(rank, size, folder, gpus)
            process = self.context.Process(  # type: ignore[attr-defined]  # every context has it
                target=_lead if rank == 0 else _follow,
                args=(place, job, theirs) if rank == 0 else (place,),
                name="dpo-bench-worker",
                daemon=True,
            )
            with _main_hidden():
                process.start()
            processes.append(process)
        theirs.close()
        channel = LocalChannel(processes, ours, folder, gpus)
        self.channels.append(channel)
        return channel

    def listen(self, seconds: float) -> Sequence[tuple[LocalChannel, Message]]:
        """One message of each worker that has said something."""
        self.channels = [channel for channel in self.channels if not channel.is_over]
        sources: dict[Any, LocalChannel] = {
            one: channel for channel in self.channels for one in channel.sources
        }
        ready = dict.fromkeys(sources[one] for one in wait(list(sources), timeout=seconds))
        heard = [(channel, channel.receive()) for channel in ready]
        return [(channel, message) for channel, message in heard if message is not None]

    def _free_gpus(self, size: int) -> tuple[int, ...]:
        """The first GPUs that no worker has; where all are taken, those of the fewest workers."""
        used = Counter(
            gpu for channel in self.channels if not channel.is_over for gpu in channel.gpus
        )
        order = sorted(range(self.gpus), key=lambda gpu: (used[gpu], gpu))
        return tuple(sorted(order[:size]))


@contextlib.contextmanager
def local_executor() -> Iterator[LocalExecutor]:
    """An executor on this machine; what its workers need is imported from now on."""
    yield LocalExecutor(process_context(), count_gpus())


@dataclass(frozen=True, slots=True)
class Place:
    """A process's place among those of one worker.

    Attributes:
        rank: its number; 0 leads.
        size: how many there are.
        folder: where they meet.
        gpus: numbers of the worker's GPUs among those that the sweep sees; none on a CPU.
    """

    rank: int
    size: int
    folder: Path
    gpus: Sequence[int]

    def take(self) -> None:
        """Let this process see the worker's GPUs alone, before CUDA looks for any."""
        if self.gpus:
            before = os.environ.get(VISIBLE)
            names = before.split(",") if before else [str(at) for at in range(max(self.gpus) + 1)]
            os.environ[VISIBLE] = ",".join(names[gpu] for gpu in self.gpus)

    def meet(self) -> Ranks:
        """Meet the worker's other processes."""
        from dpo_bench.model.ranks import Ranks

        return Ranks.join(
            self.rank, self.size, f"file://{self.folder}/meet", gpu=self.rank if self.gpus else None
        )


def _follow(place: Place) -> None:
    """Entry point of a worker's other processes."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    place.take()
    place.meet().follow()


def _lead(place: Place, job: Job, pipe: Connection) -> None:
    """Entry point of a worker process."""
    die_with_parent()
    answer_into(place.folder / STACK)
    place.take()
    stop_asked = False

    def ask_stop(_signal: int, _frame: object) -> None:
        nonlocal stop_asked
        stop_asked = True

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep hears Ctrl-C and decides
    signal.signal(signal.SIGTERM, ask_stop)
    work(pipe, job, lambda: stop_asked, place.meet)


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; was the memory full? Try fewer --workers" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with exit code {code}"
