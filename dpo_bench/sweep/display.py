"""What a person sees while a sweep runs: live bars in a terminal, plain lines anywhere else.

On request next to nothing, or JSON lines for programs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from dpo_bench.progress import Loudness
from dpo_bench.sweep.target_table import TargetTable
from dpo_bench.terminal import say
from dpo_bench.wording import counted

SECONDS_BETWEEN_LINES = 5.0
SECONDS_OF_SILENCE = 60.0
"""After so long a log hears where a trial is."""
WORKERS_SHOWN = 16
"""Bars of workers at most: more would not fit, and drawing them is what a terminal costs."""
WIDTH_FOR_BARS = 80
"""Columns of a terminal from which the numbers leave room for a bar."""


class Display(Protocol):
    """Where the sweep tells what happens."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def note(self, text: str, *, warning: bool = False) -> None:
        """Say something once; a warning is what a reader of the results must know."""

    def phase(self, phase: str, done: int, total: int) -> None:
        """Progress of the work before the trials."""

    def start(self, total: int) -> None:
        """The trials begin; ``total`` of them are to be done."""

    def trial(self, worker: int, label: str, phase: str, done: int, total: int) -> None:
        """Progress of the trial that a worker is at."""

    def finished(self, label: str, error: str | None, *, stopped: bool = False) -> None:
        """A trial has ended; ``error`` says why it failed or, if so, was stopped early."""

    def total(self, n: int) -> None:
        """The number of trials that are expected has changed."""

    def seek(self, losses: Sequence[str], kls: Sequence[float]) -> None:
        """A search begins: every loss is to reach every KL."""

    def target(self, loss: str, kl: float, text: str, *, met: bool = True) -> None:
        """A loss has met a KL that is sought, or (not ``met``) cannot; ``text`` says how or why."""

    def verdicts(self, text: str) -> None:
        """What the comparisons come to at present."""


def _outcome(error: str | None, *, stopped: bool) -> str:
    """What became of a trial."""
    if not error:
        return "done"
    return f"stopped: {error}" if stopped else f"failed: {error}"


def _target(loss: str, kl: float, text: str, *, met: bool) -> str:
    """A line about a KL that is sought."""
    return f"{loss} {'is at' if met else 'cannot reach'} KL {kl:g}: {text}"


class _Lines:
    """What all displays share that write lines and hold nothing open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class PlainDisplay(_Lines):
    """A line per event, for logs and pipes.

    Args:
        write: is given each line.
        clock: seconds.
        silence: seconds after which it is said where a trial is.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        silence: float = SECONDS_OF_SILENCE,
    ) -> None:
        self.write = write
        self.clock = clock
        self.silence = silence
        self.last_phase = ""
        self.last_time = clock()
        self.expected = self.count = 0
        self.begun = 0.0

    def note(self, text: str, *, warning: bool = False) -> None:
        """Write one line."""
        self._say(f"warning: {text}" if warning else text)

    def phase(self, phase: str, done: int, total: int) -> None:
        """Write when a phase begins, now and then, and when it ends."""
        begins = phase != self.last_phase
        if begins or done >= total or self.clock() - self.last_time > SECONDS_BETWEEN_LINES:
            self.last_phase = phase
            self._say(f"{phase}: {done}/{total}")

    def start(self, total: int) -> None:
        """Remember when the trials began."""
        self.expected, self.begun = total, self.clock()

    def trial(self, _worker: int, label: str, phase: str, done: int, total: int) -> None:
        """Write after a long silence: a log wants a line per trial, not per step."""
        if self.clock() - self.last_time > self.silence:
            self._say(f"{label}: {phase} {done}/{total}")

    def finished(self, label: str, error: str | None, *, stopped: bool = False) -> None:
        """Write the trial's outcome and the time that is left."""
        self.count += 1
        spent = self.clock() - self.begun
        left = spent / self.count * max(0, self.expected - self.count)
        outcome = _outcome(error, stopped=stopped)
        self._say(f"[{self.count}/{self.expected}] {label}: {outcome} ({left:.0f} s left)")

    def total(self, n: int) -> None:
        """Count towards this number from now on; the lines of trials show it."""
        self.expected = n

    def seek(self, losses: Sequence[str], kls: Sequence[float]) -> None:
        """Write one line."""
        sought = ", ".join(f"{kl:g}" for kl in kls)
        self._say(f"{counted(len(losses), 'loss', 'losses')} to be brought to KL {sought}")

    def target(self, loss: str, kl: float, text: str, *, met: bool = True) -> None:
        """Write one line."""
        self._say(_target(loss, kl, text, met=met))

    def verdicts(self, text: str) -> None:
        """Write one line."""
        self._say(f"verdicts: {text}")

    def _say(self, line: str) -> None:
        self.last_time = self.clock()
        self.write(line)


class QuietDisplay(_Lines):
    """Warnings and failures alone."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write

    def note(self, text: str, *, warning: bool = False) -> None:
        """Write warnings."""
        if warning:
            self.write(f"warning: {text}")

    def phase(self, phase: str, done: int, total: int) -> None:
        """Say nothing."""

    def start(self, total: int) -> None:
        """Say nothing."""

    def trial(self, worker: int, label: str, phase: str, done: int, total: int) -> None:
        """Say nothing."""

    def finished(self, label: str, error: str | None, *, stopped: bool = False) -> None:
        """Write failures."""
        if error and not stopped:
            self.write(f"{label} failed: {error}")

    def total(self, n: int) -> None:
        """Say nothing."""

    def seek(self, losses: Sequence[str], kls: Sequence[float]) -> None:
        """Say nothing."""

    def target(self, loss: str, kl: float, text: str, *, met: bool = True) -> None:
        """Say nothing: the report says it."""

    def verdicts(self, text: str) -> None:
        """Say nothing: the report says them."""


class JsonDisplay(_Lines):
    """A JSON object a line: ``time`` (UTC), ``event``, and what belongs to it."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.write = write
        self.clock = clock
        self.last: dict[int | None, tuple[str, dict[str, float]]] = {}

    def note(self, text: str, *, warning: bool = False) -> None:
        """``note`` or ``warning``, with its text."""
        self._say("warning" if warning else "note", text=text)

    def phase(self, phase: str, done: int, total: int) -> None:
        """``phase``, with how much of it is done."""
        if self._is_time(None, "", phase) or done >= total:
            self._say("phase", phase=phase, done=done, total=total)

    def start(self, total: int) -> None:
        """``start``, with the number of trials to do."""
        self._say("start", trials=total)

    def trial(self, worker: int, label: str, phase: str, done: int, total: int) -> None:
        """``trial``, with how much of its phase is done."""
        if self._is_time(worker, label, phase):
            self._say("trial", worker=worker, trial=label, phase=phase, done=done, total=total)

    def finished(self, label: str, error: str | None, *, stopped: bool = False) -> None:
        """``finished``, with the error or null; ``stopped``, with the reason."""
        if stopped:
            self._say("stopped", trial=label, reason=error)
        else:
            self._say("finished", trial=label, error=error)

    def total(self, n: int) -> None:
        """``total``, with the number of trials that are expected."""
        self._say("total", trials=n)

    def seek(self, losses: Sequence[str], kls: Sequence[float]) -> None:
        """``seek``, with losses and KLs."""
        self._say("seek", losses=list(losses), kls=list(kls))

    def target(self, loss: str, kl: float, text: str, *, met: bool = True) -> None:
        """``target``, with loss, KL, whether it is met and what there is to say."""
        self._say("target", loss=loss, kl=kl, met=met, text=text)

    def verdicts(self, text: str) -> None:
        """``verdicts``, with their counts in words."""
        self._say("verdicts", text=text)

    def _is_time(self, worker: int | None, label: str, phase: str) -> bool:
        """Whether a phase of a worker's trial has not been spoken of lately."""
        before, heard = self.last.get(worker, (None, {}))
        if before != label:  # what it was at before is of the past
            heard = {}
            self.last[worker] = label, heard
        now = self.clock()
        if now - heard.get(phase, -SECONDS_BETWEEN_LINES) < SECONDS_BETWEEN_LINES:
            return False
        heard[phase] = now
        return True

    def _say(self, event: str, **fields: object) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.write(json.dumps({"time": stamp, "event": event, **fields}, ensure_ascii=False))


class _Bars(Progress):
    """Bars, and below them what else there is to see."""

    below: Callable[[], Iterable[RenderableType]] = tuple

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, then the rest."""
        yield from super().get_renderables()
        yield from self.below()


class LiveDisplay:
    """Bars: one for all trials, one for each of the first workers, with the time that is left.

    Of a search also a table of what is met, and the present verdicts.
    """

    def __init__(self, console: Console) -> None:
        # What is short of room gives way in this order: the bar, the description, never a number.
        whole = Column(no_wrap=True)
        description = Column(ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}", table_column=description),
            MofNCompleteColumn(table_column=whole),
            TimeElapsedColumn(table_column=whole),
            TimeRemainingColumn(table_column=whole),
        ]
        if console.width >= WIDTH_FOR_BARS:
            columns.insert(1, BarColumn(bar_width=20))
        self.progress = _Bars(*columns, console=console, expand=True)
        self.progress.below = self._below
        self.console = console
        self.targets = TargetTable(console)
        self.verdict = ""
        self.preparing: TaskID | None = None
        self.last_phase = ""
        self.overall: TaskID | None = None
        self.workers: dict[int, tuple[TaskID, str]] = {}
        self.unseen = 0

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

    def note(self, text: str, *, warning: bool = False) -> None:
        """Write one line above the bars."""
        mark = "[yellow]warning:[/] " if warning else ""
        self.progress.console.print(f"{mark}{escape(text)}", highlight=False)

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
        """Show the worker's bar, or count it where there are many."""
        if worker >= WORKERS_SHOWN:
            self.unseen = max(self.unseen, worker + 1 - WORKERS_SHOWN)
            return
        description = f"{worker}: {escape(label)}: {phase}"
        task, before = self.workers.get(worker, (None, ""))
        if task is None:
            task = self.progress.add_task(description, total=total)
        elif before != description:
            self.progress.reset(task, total=total, description=description)
        self.workers[worker] = task, description
        self.progress.update(task, completed=done, total=total)

    def finished(self, label: str, error: str | None, *, stopped: bool = False) -> None:
        """Count the trial; say so when it failed or was stopped."""
        if error:
            color, word = ("yellow", "stopped") if stopped else ("red", "failed")
            line = f"[{color}]{escape(label)} {word}:[/] {escape(error)}"
            self.progress.console.print(line, highlight=False)
        if self.overall is not None:
            self.progress.advance(self.overall)

    def total(self, n: int) -> None:
        """Let the bar of all trials end here."""
        if self.overall is not None:
            self.progress.update(self.overall, total=n)

    def seek(self, losses: Sequence[str], kls: Sequence[float]) -> None:
        """Show the table of what is sought."""
        self.targets.seek(losses, kls)

    def target(self, loss: str, kl: float, text: str, *, met: bool = True) -> None:
        """Mark it in the table; say why it cannot be met."""
        self.targets.set(loss, kl, met=met)
        if not met:
            self.note(_target(loss, kl, text, met=met))

    def verdicts(self, text: str) -> None:
        """Show them below the table."""
        self.verdict = text

    def _below(self) -> Iterator[RenderableType]:
        verdict = f"verdicts: {escape(self.verdict)}" if self.verdict else ""
        # A line stays free: what fills the whole terminal flickers.
        room = (
            self.console.height - len(self.progress.tasks) - bool(verdict) - bool(self.unseen) - 1
        )
        if self.unseen:
            yield Text(f"and {counted(self.unseen, 'worker')} more")
        if (table := self.targets.render(room)) is not None:
            yield table
        if verdict:
            yield Text.from_markup(verdict, overflow="ellipsis")


def make_display(console: Console, loudness: Loudness = "normal") -> Display:
    """Live bars when someone watches a terminal, else lines; see `Loudness`."""

    def line(text: str) -> None:
        say(console, text)

    def dated(text: str) -> None:
        line(f"{datetime.now().astimezone():%H:%M:%S} {text}")

    if loudness == "json":
        return JsonDisplay(line)
    if loudness == "quiet":
        return QuietDisplay(line)
    if loudness == "verbose":
        return PlainDisplay(dated, silence=SECONDS_BETWEEN_LINES)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(dated)
