"""Workers as actors of a Ray cluster, on as many machines as it has.

Ray finds each worker a place and carries its messages; trials go straight into the sweep's folder,
which all machines must see, and nothing is kept in the cluster.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import tempfile
import textwrap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.resources import available_cpus
from dpo_bench.storage import cache_root
from dpo_bench.sweep.executors.base import WAITING, Message, WorkerDiedError
from dpo_bench.sweep.executors.machines import Machine
from dpo_bench.sweep.executors.ray_actor import MARKER, Actor, NodeEnvironment
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.versions import installed_versions
from dpo_bench.sweep.worker import Event, Job

ADDRESS = "RAY_ADDRESS"
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}
ONE_MACHINE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Lets Ray listen on 127.0.0.1, as it does on Windows and macOS, and not on every address."""
OBJECT_STORE_BYTES = 80_000_000
"""Just above the least that Ray allows: nothing but messages passes through."""
SECONDS_TO_CONNECT = 10.0
SHOWN_CHARACTERS = 240
"""Of Ray's messages, which go on with advice."""
CALLS_AT_ONCE = 4
"""Of one actor: it works, gives its messages, and is sent a task or asked to stop."""


class RayChannel:
    """The line to an actor.

    Attributes:
        needs: what it takes of the cluster, for people.
        heard: the reference of the call that brings its next messages.
        has_begun: it has found a place in the cluster.
        is_over: nothing more comes from it.
    """

    def __init__(
        self, ray: Any, actor: Any, needs: str, job: Job, environment: NodeEnvironment
    ) -> None:
        self.ray = ray
        self.actor = actor
        self.needs = needs
        self.ended = actor.work_here.remote(job, environment)
        self.heard = actor.receive_soon.remote()
        self.has_begun = False
        self.is_over = False

    def send(self, task: Task) -> None:
        """Give the actor a task; a dead one's next messages are an error."""
        self.actor.send.remote(task)

    def stop(self) -> None:
        """Ask for the end."""
        self.actor.stop.remote()

    def join(self, seconds: float) -> bool:
        """Wait for the end of its work, if that has begun; returns whether there is none."""
        if self.is_over or not self.has_begun:
            return True
        return bool(self.ray.wait([self.ended], timeout=seconds)[0])

    def place(self) -> str:
        """Not known."""
        return ""

    def kill(self) -> None:
        """End the actor's process now, or give up its place in the queue for one."""
        self.is_over = True
        self.ray.kill(self.actor)

    def receive(self) -> list[Message]:
        """The messages that have arrived."""
        try:
            messages: list[Message] = self.ray.get(self.heard)
        except self.ray.exceptions.RayError as error:
            self.is_over = True
            return [WorkerDiedError(_cause_of_death(error))]
        if not self.has_begun:
            self.has_begun = True
            messages.insert(0, self.wait_for_place(1))
        self.heard = self.actor.receive_soon.remote()
        return messages

    def wait_for_place(self, done: int) -> Event:
        """Where the actor is before its work begins, which in a full cluster takes long."""
        return Event("progress", f"{WAITING} ({self.needs})", done, 1)


class RayExecutor:
    """Starts actors and passes on their messages.

    Args:
        ray: Ray, connected.
        markers: new files, which every machine must see.
    """

    def __init__(self, ray: Any, markers: tuple[Path, ...]) -> None:
        self.ray = ray
        self.markers = markers
        self.channels: list[RayChannel] = []
        self.hired: list[RayChannel] = []

    def machines(self) -> list[Machine]:
        """What the cluster's machines offer, whether or not it is free now."""
        found = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [
            Machine(*(int(resources.get(name, 0)) for name in ("CPU", "GPU", "memory")))
            for resources in found
        ]

    def spawn(self, job: Job) -> RayChannel:
        """Queue an actor for a place in the cluster."""
        gpus = 1 if job.sources.device == "cuda" else 0
        needs = f"{job.threads} CPU{', 1 GPU' if gpus else ''}"
        place = self.ray.remote(Actor).options(
            num_cpus=job.threads,
            num_gpus=gpus,
            max_concurrency=CALLS_AT_ONCE,
            scheduling_strategy="SPREAD",  # workers of one machine share its memory
        )
        channel = RayChannel(self.ray, place.remote(), needs, job, self._surroundings(job))
        self.hired.append(channel)
        return channel

    def listen(self, seconds: float) -> Sequence[tuple[RayChannel, Message]]:
        """All that has been said."""
        if self.hired:
            hired, self.hired = self.hired, []
            self.channels += hired
            return [(channel, channel.wait_for_place(0)) for channel in hired]
        self.channels = [channel for channel in self.channels if not channel.is_over]
        calls = {channel.heard: channel for channel in self.channels}
        ready, _ = self.ray.wait(list(calls), timeout=seconds)
        if ready:
            ready, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return [(calls[call], message) for call in ready for message in calls[call].receive()]

    def _surroundings(self, job: Job) -> NodeEnvironment:
        preferences = Path(job.sources.preferences)
        return NodeEnvironment(
            folder=Path.cwd(),
            cache=cache_root().resolve(),
            seen=(
                *self.markers,
                job.sources.policy.path.resolve(),
                job.sources.reference.path.resolve(),
                *([preferences.resolve()] if preferences.exists() else []),
                *job.plugins,
            ),
            versions=installed_versions(),
        )


def load_ray() -> Any:
    """Ray, told beforehand what it reads from the environment.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    own = not os.environ.get(ADDRESS)
    os.environ.update({**ENVIRONMENT, **ONE_MACHINE} if own else ENVIRONMENT)
    try:
        import ray
    except ImportError as error:
        raise EnvironmentProblem(
            "--executor ray needs the ray package: pip install 'dpo_bench[ray]'."
        ) from error
    return ray


@contextlib.contextmanager
def ray_executor(ray: Any, folder: Path, workers: int | None) -> Iterator[RayExecutor]:
    """An executor on the cluster at ``RAY_ADDRESS``.

    Without that variable, on one that is started on this machine and gone when this is closed.

    Args:
        ray: from `load_ray`.
        folder: the sweep's folder.
        workers: how many will be asked for, or None.

    Raises:
        EnvironmentProblem: the cluster is not reached.
    """
    cache_root().mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        places = (folder, cache_root())
        markers = tuple(stack.enter_context(_marker(place)) for place in places)
        stack.callback(ray.shutdown)
        with _kept_signals():
            _connect(ray, workers)
        yield RayExecutor(ray, markers)


def _connect(ray: Any, workers: int | None) -> None:
    address = os.environ.get(ADDRESS)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(
            "local",
            num_cpus=max(available_cpus(), workers or 1),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )
        return
    try:
        _require_listener(address)
        ray.init(address, **quiet)
    except Exception as error:  # Ray raises whatever its lowest layer raised
        raise EnvironmentProblem(
            f"no Ray cluster was reached at {ADDRESS}={address} ({_last_line(error)}); "
            f"unset {ADDRESS} for one on this machine alone."
        ) from error


@contextlib.contextmanager
def _marker(place: Path) -> Iterator[Path]:
    """A new file of a name that no other machine has by chance."""
    with tempfile.NamedTemporaryFile(prefix=MARKER, dir=place.resolve()) as file:
        yield Path(file.name)


@contextlib.contextmanager
def _kept_signals() -> Iterator[None]:
    """Undo what Ray does to this process's handling of SIGTERM, which means Ctrl-C here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _require_listener(address: str) -> None:
    """Raise OSError where nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()


def _cause_of_death(error: Exception) -> str:
    place = re.search(r"^\s*ip: (\S+)", str(error), re.MULTILINE)
    where = f" on {place[1]}" if place else ""
    return f"the worker{where} died: {_last_line(error)}"


def _last_line(error: Exception) -> str:
    """Where Ray says what happened, after what it happened to."""
    lines = str(error).split("\n")
    return textwrap.shorten(lines[-1] or type(error).__name__, SHOWN_CHARACTERS)
