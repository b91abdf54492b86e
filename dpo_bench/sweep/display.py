"""What a person sees while a sweep runs: live bars in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 5.0


class Display(Protocol):
    """Where the sweep tells what happens."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def note(self, text: str) -> None:
        """Say something once."""

    def phase(self, phase: str, done: int, total: int) -> None:
        """Progress of the work before the trials."""

    def start(self, total: int) -> None:
        """The trials begin; ``total`` of them are to be done."""

    def trial(self, worker: int, label: str, phase: str, done: int, total: int) -> None:
        """Progress of the trial that a worker is at."""

    def finished(self, label: str, error: str | None) -> None:
        """A trial has ended."""


class PlainDisplay:
    """A line per event, for logs and pipes."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.write = write
        self.clock = clock
        self.last_phase = ""
        self.last_time = 0.0
        self.total = self.count = 0
        self.begun = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def note(self, text: str) -> None:
        """Write one line."""
        self.write(text)

    def phase(self, phase: str, done: int, total: int) -> None:
        """Write when a phase begins, now and then, and when it ends."""
        now = self.clock()
        begins = phase != self.last_phase
        if begins or done >= total or now - self.last_time > SECONDS_BETWEEN_LINES:
            self.last_phase, self.last_time = phase, now
            self.write(f"{phase}: {done}/{total}")

    def start(self, total: int) -> None:
        """Remember when the trials began."""
        self.total, self.begun = total, self.clock()

    def trial(self, worker: int, label: str, phase: str, done: int, total: int) -> None:
        """Say nothing: a log wants a line per trial, not per step."""

    def finished(self, label: str, error: str | None) -> None:
        """Write the trial's outcome and the time that is left."""
        self.count += 1
        spent = self.clock() - self.begun
        left = spent / self.count * (self.total - self.count)
        outcome = f"failed: {error}" if error else "done"
        self.write(f"[{self.count}/{self.total}] {label}: {outcome} ({left:.0f} s left)")


class LiveDisplay:
    """Bars: one for all trials, one per worker, with the time that is left."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.preparing: TaskID | None = None
        self.last_phase = ""
        self.overall: TaskID | None = None
        self.workers: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        """Write one line above the bars."""
        self.progress.console.print(escape(text), highlight=False)

    def phase(self, phase: str, done: int, total: int) -> None:
        """Show the phase's bar; a finished one stays."""
        if phase != self.last_phase or self.preparing is None:
            self.last_phase = phase
            self.preparing = self.progress.add_task(escape(phase), total=total)
        self.progress.update(self.preparing, completed=done, total=total)

    def start(self, total: int) -> None:
        """Show the bar of all trials."""
        self.overall = self.progress.add_task("[bold]trials", total=total)

    def trial(self, worker: int, label: str, phase: str, done: int, total: int) -> None:
        """Show the worker's bar."""
        description = f"{worker}: {escape(label)}: {phase}"
        if worker not in self.workers:
            self.workers[worker] = self.progress.add_task(description, total=total)
        task = self.workers[worker]
        if self.progress.tasks[self.progress.task_ids.index(task)].description != description:
            self.progress.reset(task, total=total)
        self.progress.update(task, description=description, completed=done, total=total)

    def finished(self, label: str, error: str | None) -> None:
        """Count the trial; say so when it failed."""
        if error:
            self.note(f"{label} failed: {error}")
        if self.overall is not None:
            self.progress.advance(self.overall)


def make_display(console: Console) -> Display:
    """Live bars when someone watches a terminal, else plain lines."""
    if console.is_terminal:
        return LiveDisplay(console)
    return PlainDisplay(
        lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
    )
