"""Workers as processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from dpo_bench.sweep.executors.base import Message, WorkerDiedError
from dpo_bench.sweep.executors.machines import Machine, this_machine
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.worker import Job, work

PRELOAD = "dpo_bench.sweep.preload"


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
    """The line to a worker process: one pipe.

    Attributes:
        is_over: nothing more comes from it.
    """

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.is_over = False

    def send(self, task: Task | None) -> None:
        """Give the worker a task, or None: no more of them."""
        with contextlib.suppress(OSError):  # dead; the pool is told next
            self.pipe.send(task)

    def stop(self) -> None:
        """Ask for the end: by a signal while it works, through the pipe while it waits."""
        self.send(None)
        self.process.terminate()

    def join(self, seconds: float) -> None:
        """Wait for the process's end."""
        self.process.join(seconds)

    def kill(self) -> None:
        """End the process now."""
        self.is_over = True
        self.process.kill()

    def receive(self) -> Message:
        """The next message; waits for it."""
        try:
            return self.pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionResetError):
            self.is_over = True
            self.process.join()
            return WorkerDiedError(f"the worker {_cause_of_death(self.process.exitcode)}.")


class LocalExecutor:
    """Starts worker processes and passes on their messages. Nothing is shared between them."""

    def __init__(self, context: BaseContext) -> None:
        self.context = context
        self.channels: list[LocalChannel] = []

    def machines(self) -> list[Machine]:
        """This machine."""
        return [this_machine()]

    def spawn(self, job: Job) -> LocalChannel:
        """Start a worker process."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(  # type: ignore[attr-defined]  # every context has it
            target=_main, args=(theirs, job), name="dpo-bench-worker", daemon=True
        )
        with _main_hidden():
            process.start()
        theirs.close()
        channel = LocalChannel(process, ours)
        self.channels.append(channel)
        return channel

    def listen(self, seconds: float) -> Sequence[tuple[LocalChannel, Message]]:
        """One message of each worker that has said something."""
        self.channels = [channel for channel in self.channels if not channel.is_over]
        ready = wait([channel.pipe for channel in self.channels], timeout=seconds)
        return [(channel, channel.receive()) for channel in self.channels if channel.pipe in ready]


@contextlib.contextmanager
def local_executor() -> Iterator[LocalExecutor]:
    """An executor on this machine; what its workers need is imported from now on."""
    yield LocalExecutor(process_context())


def _main(pipe: Connection, job: Job) -> None:
    """Entry point of a worker process."""
    stop_asked = False

    def ask_stop(_signal: int, _frame: object) -> None:
        nonlocal stop_asked
        stop_asked = True

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep hears Ctrl-C and decides
    signal.signal(signal.SIGTERM, ask_stop)
    work(pipe, job, lambda: stop_asked)


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; was the memory full? Try fewer --workers" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with exit code {code}"
