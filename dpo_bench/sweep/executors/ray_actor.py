"""A worker inside an actor of a cluster: its environment, and the two ends of its pipe."""

from __future__ import annotations

import os
import platform
import queue
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_bench.errors import DpoBenchError, EnvironmentProblem
from dpo_bench.storage import CACHE_VARIABLE
from dpo_bench.sweep.executors.base import Message, WorkerDiedError
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.versions import installed_versions
from dpo_bench.sweep.worker import Job, work

SECONDS_TO_LISTEN = 1.0
MARKER = ".seen-by-all-"
"""How the names begin of files that are made to see whether a folder is shared."""


@dataclass(frozen=True, slots=True)
class NodeEnvironment:
    """What a machine must have in common with the one where the sweep was started.

    Attributes:
        folder: the working folder, taken up where it exists: relative paths begin there.
        cache: root of the cache.
        seen: files and folders that must be there.
        versions: see `installed_versions`.
    """

    folder: Path
    cache: Path
    seen: tuple[Path, ...]
    versions: dict[str, str]

    def enter(self) -> None:
        """Take them up.

        Raises:
            EnvironmentProblem: this machine does not see a path, or has other versions.
        """
        machine = platform.node()
        for path in self.seen:
            if not path.exists():
                # What is a marker to us is to the user the folder in which it lies.
                shown = path.parent if path.name.startswith(MARKER) else path
                raise EnvironmentProblem(
                    f"the machine {machine} of the cluster does not see {shown}: the sweep's "
                    f"folder, the cache ({CACHE_VARIABLE}), model and data must be on a file "
                    "system that all machines share, at the same path."
                )
        ours = installed_versions()
        for name, version in self.versions.items():
            if ours.get(name) != version:
                raise EnvironmentProblem(
                    f"the machine {machine} of the cluster has {name} {ours.get(name, 'missing')}, "
                    f"and {version} is where the sweep was started: install the same on all."
                )
        os.environ[CACHE_VARIABLE] = str(self.cache)
        if self.folder.is_dir():
            os.chdir(self.folder)


class _Mailbox:
    """The worker's end of the line, as two queues."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def send(self, message: Any, /) -> None:
        self.messages.put(message)

    def recv(self) -> Task | None:
        return self.tasks.get()


class Actor:
    """One worker; its calls run beside each other, each in a thread of its own."""

    def __init__(self) -> None:
        self.mailbox = _Mailbox()
        self.stop_asked = threading.Event()

    def work(self, job: Job, environment: NodeEnvironment) -> None:
        """Be a worker until told to stop."""
        try:
            environment.enter()
            work(self.mailbox, job, self.stop_asked.is_set)
        except DpoBenchError as error:
            self.mailbox.send(error)
        except SystemExit:  # asked to stop, outside training
            return
        except BaseException as error:
            trace = "".join(traceback.format_exception(error))
            self.mailbox.send(WorkerDiedError(f"the worker failed:\n{trace}"))

    def send(self, task: Task) -> None:
        """Give it a task."""
        self.mailbox.tasks.put(task)

    def receive(self) -> list[Message]:
        """All that the worker has said since the last call; waits a moment for the first word."""
        heard: list[Message] = []
        try:
            heard.append(self.mailbox.messages.get(timeout=SECONDS_TO_LISTEN))
            while True:
                heard.append(self.mailbox.messages.get_nowait())
        except queue.Empty:
            return heard

    def stop(self) -> None:
        """Ask it to save what it is at and to end."""
        self.stop_asked.set()
        self.mailbox.tasks.put(None)
