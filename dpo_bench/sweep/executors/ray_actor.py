"""A worker inside actors of a cluster: their environment, and the two ends of its pipe."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_bench.errors import DpoBenchError, EnvironmentProblem
from dpo_bench.storage import CACHE_VARIABLE
from dpo_bench.sweep.executors.base import Message
from dpo_bench.sweep.executors.mailbox import InboxWorker
from dpo_bench.sweep.executors.meeting import Meeting, join_store, open_store
from dpo_bench.sweep.versions import installed_versions
from dpo_bench.sweep.worker import Job

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

    from dpo_bench.model.ranks import Ranks

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


class Actor(InboxWorker):
    """One worker, or its leading process; its calls run beside each other, each in a thread.

    Args:
        size: how many processes the worker has.
    """

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.store: TCPStore | None = None
        self.meeting: Meeting | None = None
        if size > 1:
            self.store, self.meeting = open_store(_own_address(), size)

    def where(self) -> Meeting | None:
        """Where the worker's other processes find this one."""
        return self.meeting

    def work_here(self, job: Job, environment: NodeEnvironment) -> None:
        """Be a worker in this environment until told to stop."""
        try:
            environment.enter()
        except DpoBenchError as error:
            self.mailbox.send(error)
            return
        meeting = self.meeting
        if meeting is None:
            self.work(job)
            return
        gpu = _gpu(job)
        self.work(job, lambda: join_store(self.store, meeting, 0, _own_address(), gpu))

    def receive_soon(self) -> list[Message]:
        """All that the worker has said since the last call; waits a moment for the first word."""
        return self.receive(SECONDS_TO_LISTEN)


class Follower:
    """One of the other processes of a worker, which holds a share of its models."""

    def follow_here(
        self, job: Job, environment: NodeEnvironment, rank: int, meeting: Meeting
    ) -> DpoBenchError | None:
        """Do in this environment what the leading process says, until it says no more.

        Returns:
            what is wrong with the environment, if anything.
        """
        try:
            environment.enter()
        except DpoBenchError as error:
            return error
        ranks: Ranks = join_store(None, meeting, rank, _own_address(), _gpu(job))
        ranks.follow()
        return None


def _own_address() -> str:
    """That by which the cluster knows this machine."""
    import ray

    return str(ray.util.get_node_ip_address())


def _gpu(job: Job) -> int | None:
    """Number of this process's GPU: the first of those it sees, because Ray shows it its own."""
    return 0 if job.sources.device == "cuda" else None
