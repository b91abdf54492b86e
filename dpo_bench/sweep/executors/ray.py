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
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from dpo_bench.errors import DpoBenchError, EnvironmentProblem
from dpo_bench.notes import Note
from dpo_bench.resources import available_cpus
from dpo_bench.storage import cache_root
from dpo_bench.sweep.executors.base import WAITING, Message, WorkerDiedError
from dpo_bench.sweep.executors.machines import Machine
from dpo_bench.sweep.executors.ray_actor import MARKER, Actor, Follower, NodeEnvironment
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
SECONDS_TO_TELL = 3.0
"""How much sooner a worker's other actors may tell of the end of one than the cluster does."""
SHOWN_CHARACTERS = 240
"""Of Ray's messages, which go on with advice."""
CALLS_AT_ONCE = 4
"""Of one actor: it works, gives its messages, and is sent a task or asked to stop."""


class RayChannel:
    """The line to a worker: to the actor that leads it.

    Args:
        ray: Ray, connected.
        actors: the worker's, one for each process; the leading one first.
        needs: what they take of the cluster, for people.
        group: the placement group that holds their places together; None: there is but one.

    Attributes:
        heard: the reference of the call that brings its next messages.
        has_begun: it has found a place in the cluster.
        is_over: nothing more comes from it.
    """

    def __init__(self, ray: Any, actors: Sequence[Any], needs: str, group: Any = None) -> None:
        self.ray = ray
        self.actors = actors
        self.needs = needs
        self.group = group
        self.has_begun = False
        self.is_over = False

    def begin(self, job: Job, environment: NodeEnvironment) -> None:
        """Have all actors work as soon as they have found their places."""
        lead, *others = self.actors
        self.ended = lead.work_here.remote(job, environment)
        self.heard = lead.receive_soon.remote()
        where = lead.where.remote() if others else None
        self.followers = [
            other.follow_here.remote(job, environment, rank, where)
            for rank, other in enumerate(others, start=1)
        ]

    def send(self, task: Task) -> None:
        """Give the worker a task; a dead one's next messages are an error."""
        self.actors[0].send.remote(task)

    def stop(self) -> None:
        """Ask for the end."""
        self.actors[0].stop.remote()

    def join(self, seconds: float) -> bool:
        """Wait for the end of its work, if that has begun; returns whether there is none."""
        if self.is_over or not self.has_begun:
            return True
        return bool(self.ray.wait([self.ended], timeout=seconds)[0])

    def place(self) -> str:
        """Not known."""
        return ""

    def kill(self) -> None:
        """End the actors' processes now, or give up their places in the queue."""
        self.is_over = True
        for actor in self.actors:
            self.ray.kill(actor)
        if self.group is not None:
            self.ray.util.remove_placement_group(self.group)

    @property
    def calls(self) -> list[Any]:
        """What ends when there is a message, or when an actor is gone."""
        return [self.heard, *self.followers]

    def receive(self, ready: Collection[Any]) -> list[Message]:
        """The messages that have arrived.

        Args:
            ready: those of the calls that have ended.
        """
        followers = [call for call in self.followers if call in ready]
        try:
            problems = [found for found in self.ray.get(followers) if found is not None]
            messages: list[Message] = self.ray.get(self.heard) if self.heard in ready else []
        except self.ray.exceptions.RayError as error:
            return [self._died(error)]
        self.followers = [call for call in self.followers if call not in ready]
        if self.heard in ready:
            if not self.has_begun:
                self.has_begun = True
                messages.insert(0, self.wait_for_place(1))
            self.heard = self.actors[0].receive_soon.remote()
        if self.group is not None and messages and _has_left(messages[-1]):
            # What the leading process gave up at mostly follows from the end of another.
            death = self._death()
            messages[-1] = messages[-1] if death is None else self._died(death)
        return messages + problems

    def wait_for_place(self, done: int) -> Event:
        """Where the worker is before its work begins, which in a full cluster takes long."""
        return Event("progress", f"{WAITING} ({self.needs})", done, 1)

    def _died(self, error: Exception) -> WorkerDiedError:
        self.is_over = True
        if not isinstance(error, self.ray.exceptions.ActorDiedError):
            error = self._death() or error
        return WorkerDiedError(_cause_of_death(error))

    def _death(self) -> Exception | None:
        """The end of an actor of this worker, if there is one; the others may hear of it first."""
        calls = [self.ended, *self.followers]
        ended, _ = self.ray.wait(calls, num_returns=len(calls), timeout=SECONDS_TO_TELL)
        for call in ended:
            try:
                self.ray.get(call)
            except self.ray.exceptions.RayError as error:
                if isinstance(error, self.ray.exceptions.ActorDiedError):
                    return error  # type: ignore[no-any-return]
        return None


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
        self.first: list[tuple[RayChannel, Message]] = []

    def machines(self) -> list[Machine]:
        """What the cluster's machines offer, whether or not it is free now."""
        found = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [
            Machine(*(int(resources.get(name, 0)) for name in ("CPU", "GPU", "memory")))
            for resources in found
        ]

    def spawn(self, job: Job) -> RayChannel:
        """Queue a worker's actors for places in the cluster."""
        size = job.experiment.training.gpus_per_trial
        takes = {"CPU": job.threads} | ({"GPU": 1} if job.sources.device == "cuda" else {})
        place = ", ".join(f"{count} {name}" for name, count in takes.items())
        if size == 1:
            # Workers of one machine share its memory.
            channel = RayChannel(self.ray, [self._place(Actor, takes, "SPREAD").remote()], place)
        else:
            channel = self._group(size, takes, f"{size} x ({place})")
        self.channels.append(channel)
        self.first.append((channel, channel.wait_for_place(0)))
        channel.begin(job, self._surroundings(job))
        return channel

    def listen(self, seconds: float) -> Sequence[tuple[RayChannel, Message]]:
        """All that has been said."""
        if self.first:
            first, self.first = self.first, []
            return first
        self.channels = [channel for channel in self.channels if not channel.is_over]
        calls = {call: channel for channel in self.channels for call in channel.calls}
        ready, _ = self.ray.wait(list(calls), timeout=seconds)
        if ready:
            ready, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=0)
        heard = dict.fromkeys(calls[call] for call in ready)
        ended = set(ready)
        return [(channel, message) for channel in heard for message in channel.receive(ended)]

    def _group(self, size: int, takes: dict[str, int], needs: str) -> RayChannel:
        """A worker of several actors: on one machine if any is large enough, else near each other.

        Their places are had together or not at all, so that no two workers wait for each other.
        """
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        fits = any(
            machine.cpus >= size * takes["CPU"] and machine.gpus >= size * takes.get("GPU", 0)
            for machine in self.machines()
        )
        group = self.ray.util.placement_group(
            [takes] * size, strategy="STRICT_PACK" if fits else "PACK"
        )
        places = [
            self._place(kind, takes, PlacementGroupSchedulingStrategy(group, rank))
            for rank, kind in enumerate([Actor] + [Follower] * (size - 1))
        ]
        actors = [places[0].remote(size), *(place.remote() for place in places[1:])]
        channel = RayChannel(self.ray, actors, needs, group)
        if not fits:
            text = (
                f"no machine of the cluster has {needs}: the processes of a trial are on several "
                "machines, and talk over the network"
            )
            self.first.append((channel, Note("WARNING", text)))
        return channel

    def _place(self, kind: type, takes: dict[str, int], strategy: Any) -> Any:
        return self.ray.remote(kind).options(
            num_cpus=takes["CPU"],
            num_gpus=takes.get("GPU", 0),
            max_concurrency=CALLS_AT_ONCE,
            scheduling_strategy=strategy,
        )

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
def ray_executor(ray: Any, folder: Path, processes: int) -> Iterator[RayExecutor]:
    """An executor on the cluster at ``RAY_ADDRESS``.

    Without that variable, on one that is started on this machine and gone when this is closed.

    Args:
        ray: from `load_ray`.
        folder: the sweep's folder.
        processes: how many the workers will have together, as far as is known.

    Raises:
        EnvironmentProblem: the cluster is not reached.
    """
    cache_root().mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        places = (folder, cache_root())
        markers = tuple(stack.enter_context(_marker(place)) for place in places)
        stack.callback(ray.shutdown)
        with _kept_signals():
            _connect(ray, processes)
        yield RayExecutor(ray, markers)


def _connect(ray: Any, processes: int) -> None:
    address = os.environ.get(ADDRESS)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(
            "local",
            num_cpus=max(available_cpus(), processes),
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
            f"unset {ADDRESS} for one on this machine alone, set RAY_AUTH_MODE=token for one that "
            "asks for a token."
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


def _has_left(message: Message) -> bool:
    return isinstance(message, Event) and message.kind == "left"


def _cause_of_death(error: Exception) -> str:
    from ray.exceptions import ActorUnavailableError, RayTaskError

    if isinstance(error, ActorUnavailableError):  # of which Ray has hope
        return "the worker does not answer: its machine, or the way to it, is gone."
    if isinstance(error, RayTaskError) and isinstance(error.cause, DpoBenchError):
        return str(error.cause)
    place = re.search(r"^\s*ip: (\S+)", str(error), re.MULTILINE)
    where = f" on {place[1]}" if place else ""
    return f"the worker{where} died: {_last_line(error)}"


def _last_line(error: Exception) -> str:
    """Where Ray says what happened, after what it happened to."""
    lines = str(error).split("\n")
    return textwrap.shorten(lines[-1] or type(error).__name__, SHOWN_CHARACTERS)
