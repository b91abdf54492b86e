"""Which trial is next: of a list that is known beforehand, or of a search that goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from dpo_bench.sweep.task import Task


class Schedule(Protocol):
    """What a pool is given to do."""

    @property
    def expected(self) -> int:
        """How many trials there will be, as far as is known."""

    @property
    def identities(self) -> list[str]:
        """Of all trials so far, done or not, in order."""

    @property
    def computed(self) -> int:
        """How many this run has done."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be given, whatever the running trials come to."""

    def take(self) -> Task | None:
        """The next trial; None where there is none now: the running ones decide what follows."""

    def finished(self, task: Task) -> None:
        """A trial that was taken has ended, well or not."""


class ListSchedule:
    """Trials that are known beforehand, in their order.

    Args:
        tasks: all of them.
        is_there: whether one has been done already; None: none has.
    """

    def __init__(
        self, tasks: Sequence[Task], is_there: Callable[[Task], bool] | None = None
    ) -> None:
        self.identities = [task.identity for task in tasks]
        self.waiting = deque(task for task in tasks if is_there is None or not is_there(task))
        self.expected = len(self.waiting)
        self.computed = 0

    @property
    def is_over(self) -> bool:
        """Whether all were taken."""
        return not self.waiting

    def take(self) -> Task | None:
        """The next one."""
        return self.waiting.popleft() if self.waiting else None

    def finished(self, task: Task) -> None:  # noqa: ARG002 - nothing follows from which it was
        """Count it; nothing follows from it."""
        self.computed += 1
