"""Workers that only wait: the executor of a cluster whose clock is moved from event to event.

Everything that leads a sweep is the program's own. What is simulated is what a worker does between
two messages (nothing, but for writing its trial's folder at the end), when it dies, and the time
that all of this takes.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dpo_bench.sweep.executors.base import Message, WorkerDiedError
from dpo_bench.sweep.executors.machines import Machine
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.worker import Event, Job, Ready


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is simulated; times in seconds.

    Attributes:
        workers: that it has room for.
        node: workers of one machine, which die together with it.
        failures: of a machine, per hour.
        repair: until a machine is there again after a failure.
        prepare: of a new worker, until it has loaded model and data.
        training: of a trial, least and most (uniform between).
        evaluation: after it; begun anew by who goes on from a checkpoint.
        checkpoint: between two of them.
        messages: of a trial's progress, evenly over its time.
        seed: of all that is random.
    """

    workers: int
    node: int = 8
    failures: float = 0.0
    repair: float = 3600.0
    prepare: float = 120.0
    training: tuple[float, float] = (1800.0, 5400.0)
    evaluation: float = 300.0
    checkpoint: float = 300.0
    messages: int = 20
    seed: int = 0


@dataclass(slots=True)
class Account:
    """Where the workers' time has gone, seconds, and what was done.

    Attributes:
        useful: training and evaluation that count.
        repeated: training and evaluation that were lost with a worker and done again.
        prepared: loading, by workers that were there from the start.
        replaced: loading, by workers in the place of dead ones.
        waiting: for a machine to be repaired, or for something to do.
        deaths: of workers that had a trial.
        published: how often each trial came to its end.
    """

    useful: float = 0.0
    repeated: float = 0.0
    prepared: float = 0.0
    replaced: float = 0.0
    waiting: float = 0.0
    deaths: int = 0
    published: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """All of it."""
        return self.useful + self.repeated + self.prepared + self.replaced + self.waiting


class Stopwatch:
    """CPU seconds that were spent here rather than by who leads the sweep."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time while this is open."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - start


class Line:
    """The pool's line to one worker.

    Attributes:
        node: the machine that it runs on; None: it waits for a place.
        task: what it is at, since ``began``.
        since: when what it does now began (preparing, a trial, waiting).
        alive: it can still do something.
    """

    def __init__(self, executor: SimulatedExecutor, *, is_first: bool) -> None:
        self.executor = executor
        self.is_first = is_first
        self.node: int | None = None
        self.task: Task | None = None
        self.is_ready = False
        self.since = executor.now
        self.alive = True

    def send(self, task: Task) -> None:
        """Begin a trial, or go on with it from its last checkpoint."""
        with self.executor.watch.running():
            self.executor.begin(self, task)

    def stop(self) -> None:
        """Nothing is at work when the pool asks for the end, unless it was interrupted."""

    def join(self, seconds: float) -> bool:
        """It ends at once."""
        return True

    def place(self) -> str:
        """It runs no code."""
        return ""

    def kill(self) -> None:
        """Give up its place."""
        with self.executor.watch.running():
            self.executor.leave(self)


class SimulatedExecutor:
    """An executor whose workers wait, in time that costs none.

    Args:
        cluster: what is simulated.
        reference: folder of the reference's evaluation, as the first worker makes it.
        publish: writes a trial's folder, as its worker does.
        account: is kept.
        checkpoints: seconds of training that each trial has saved; kept over commands.
        seconds: what each trial takes to train; kept over commands, so that it stays the same.
        command: how often the same one was given before.
    """

    def __init__(
        self,
        cluster: Cluster,
        reference: Path,
        publish: Callable[[Job, Task], None],
        account: Account,
        checkpoints: dict[str, float],
        seconds: dict[str, float],
        command: int = 0,
    ) -> None:
        self.cluster = cluster
        self.reference = reference
        self.publish = publish
        self.account = account
        self.checkpoints = checkpoints
        self.seconds = seconds
        self.watch = Stopwatch()
        self.random = np.random.default_rng((cluster.seed, command))
        self.now = 0.0
        self.messages = 0
        self.spawned = 0
        self.events: list[tuple[float, int, Callable[[], list[tuple[Line, Message]]]]] = []
        self.count = 0
        nodes = -(-cluster.workers // cluster.node)
        self.places: deque[int] = deque(node for node in range(nodes) for _ in range(cluster.node))
        self.residents: list[dict[Line, None]] = [{} for _ in range(nodes)]
        self.down: set[int] = set()
        self.queue: deque[Line] = deque()
        self.job: Job | None = None
        if cluster.failures:
            for node in range(nodes):
                self._plan_failure(node)

    def machines(self) -> list[Machine]:
        """Machines with room for one node's workers each."""
        size = self.cluster.node
        return [Machine(size, 0, size << 40) for _ in self.residents]

    def spawn(self, job: Job) -> Line:
        """A worker that waits for a place."""
        with self.watch.running():
            self.job = job
            line = Line(self, is_first=self.spawned < self.cluster.workers)
            self.spawned += 1
            self.queue.append(line)
            self._settle()
            return line

    def listen(self, seconds: float) -> Sequence[tuple[Line, Message]]:
        """What is said next, whenever that is."""
        with self.watch.running():
            while True:
                self.now, _, happen = heapq.heappop(self.events)
                if said := happen():
                    self.messages += len(said)
                    return said

    def begin(self, line: Line, task: Task) -> None:
        """Have a worker train from the last checkpoint, then evaluate, and tell how it goes."""
        cluster = self.cluster
        self.account.waiting += self.now - line.since
        line.task, line.since = task, self.now
        low, high = cluster.training
        whole = self.seconds.setdefault(task.identity, self.random.uniform(low, high))
        left = whole - self.checkpoints.get(task.identity, 0.0) + cluster.evaluation
        for number in range(1, cluster.messages + 1):
            self._at(
                left * number / (cluster.messages + 1),
                lambda number=number: self._tell(line, task, number),  # type: ignore[misc]
            )
        self._at(left, lambda: self._end(line, task))

    def leave(self, line: Line) -> None:
        """A worker's place is free for the next that waits."""
        if line.node is not None:
            if line.task is None and (line.is_ready or line.alive):  # or it has died: counted then
                self.account.waiting += self.now - line.since
            del self.residents[line.node][line]
            if line.node not in self.down:
                self.places.append(line.node)
        line.alive, line.node = False, None
        self._settle()

    def _at(self, seconds: float, happen: Callable[[], list[tuple[Line, Message]]]) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + seconds, self.count, happen))

    def _settle(self) -> None:
        """Give those who wait a place."""
        while self.queue and self.places:
            line = self.queue.popleft()
            if not line.alive:
                continue
            self.account.waiting += self.now - line.since
            line.node, line.since = self.places.popleft(), self.now
            self.residents[line.node][line] = None
            self._at(self.cluster.prepare, lambda line=line: self._ready(line))  # type: ignore[misc]

    def _ready(self, line: Line) -> list[tuple[Line, Message]]:
        if not line.alive:
            return []
        spent = self.now - line.since
        if line.is_first:
            self.account.prepared += spent
        else:
            self.account.replaced += spent
        line.is_ready, line.since = True, self.now
        return [(line, Ready({"training_pairs": 1}, self.reference, {"backend": "simulated"}))]

    def _tell(self, line: Line, task: Task, number: int) -> list[tuple[Line, Message]]:
        if not line.alive or line.task is not task:
            return []
        return [(line, Event("progress", "training", number, self.cluster.messages))]

    def _end(self, line: Line, task: Task) -> list[tuple[Line, Message]]:
        if not line.alive or line.task is not task:
            return []
        self.account.useful += self.now - line.since
        published = self.account.published
        published[task.identity] = published.get(task.identity, 0) + 1
        if self.job is None:
            raise RuntimeError("a worker was at work before it was made")
        self.publish(self.job, task)
        line.task, line.since = None, self.now
        return [(line, Event("ended"))]

    def _plan_failure(self, node: int) -> None:
        wait = self.random.exponential(3600.0 / self.cluster.failures)
        self._at(wait, lambda: self._fail(node))

    def _fail(self, node: int) -> list[tuple[Line, Message]]:
        """A machine is gone, with all who work on it, and comes back after its repair."""
        self.down.add(node)
        self.places = deque(place for place in self.places if place != node)
        self._at(self.cluster.repair, lambda: self._repaired(node))
        said: list[tuple[Line, Message]] = []
        for line in self.residents[node]:
            self._die(line)
            said.append((line, WorkerDiedError(f"the machine {node} is gone.")))
        return said

    def _repaired(self, node: int) -> list[tuple[Line, Message]]:
        self.down.discard(node)
        free = self.cluster.node - len(self.residents[node])
        self.places.extend([node] * free)
        self._plan_failure(node)
        self._settle()
        return []

    def _die(self, line: Line) -> None:
        """What a worker was at is lost back to its last checkpoint."""
        line.alive = False
        spent = self.now - line.since
        if line.task is None:
            if not line.is_ready:
                self.account.replaced += spent
            return
        self.account.deaths += 1
        identity = line.task.identity
        before = self.checkpoints.get(identity, 0.0)
        trained = min(spent, self.seconds[identity] - before)
        saved = trained // self.cluster.checkpoint * self.cluster.checkpoint
        if trained == self.seconds[identity] - before:
            saved = trained  # training ends with one
        self.checkpoints[identity] = before + saved
        self.account.useful += saved
        self.account.repeated += spent - saved
