"""A worker in a thread: the two ends of its pipe are queues."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpo_bench.errors import DpoBenchError
from dpo_bench.sweep.executors.base import Message, WorkerDiedError
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.worker import Job, work

if TYPE_CHECKING:
    from dpo_bench.model.ranks import Ranks


class _Mailbox:
    """The worker's end of the line, as two queues."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def send(self, message: Any, /) -> None:
        self.messages.put(message)

    def recv(self) -> Task | None:
        return self.tasks.get()


class InboxWorker:
    """One worker; its methods may be called from several threads at once."""

    def __init__(self) -> None:
        self.mailbox = _Mailbox()
        self.stop_asked = threading.Event()

    def work(self, job: Job, meet: Callable[[], Ranks] | None = None) -> None:
        """Be a worker until told to stop; see `dpo_bench.sweep.worker.work`."""
        try:
            work(self.mailbox, job, self.stop_asked.is_set, meet)
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

    def receive(self, seconds: float) -> list[Message]:
        """All that it has said since the last call; waits so long for the first word."""
        heard: list[Message] = []
        try:
            heard.append(self.mailbox.messages.get(timeout=seconds))
            while True:
                heard.append(self.mailbox.messages.get_nowait())
        except queue.Empty:
            return heard

    def stop(self) -> None:
        """Ask it to save what it is at and to end."""
        self.stop_asked.set()
        self.mailbox.tasks.put(None)
