"""What a message of a worker costs whoever shows it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console

from dpo_bench.sweep.display import Display, JsonDisplay, LiveDisplay, PlainDisplay

SECONDS_TO_DRAW = 3.0


class Shown(NamedTuple):
    """What a display costs.

    Attributes:
        message: microseconds of CPU for one of a worker's progress.
        drawing: milliseconds of CPU a second for what is drawn without any message.
    """

    message: float
    drawing: float


def _write(line: str) -> None:
    print(line, file=io.StringIO())


def _terminal() -> Display:
    return LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=120, height=60))


DISPLAYS: dict[str, Callable[[], Display]] = {
    "lines": lambda: PlainDisplay(_write),
    "JSON lines": lambda: JsonDisplay(_write),
    "a terminal": _terminal,
}


def shown(name: str, workers: int, messages: int) -> Shown:
    """Have a display hear so many messages of so many workers in turn.

    Args:
        name: of the display.
        workers: how many speak.
        messages: of all of them together.
    """
    with DISPLAYS[name]() as display:
        display.start(10 * workers)
        for worker in range(workers):
            display.trial(worker, f"dpo beta=0.1 seed={worker}", "training", 0, 1000)
        idle, awake = time.process_time(), time.perf_counter()
        time.sleep(SECONDS_TO_DRAW)
        drawing = (time.process_time() - idle) / (time.perf_counter() - awake)
        begun, awake = time.process_time(), time.perf_counter()
        for number in range(messages):
            worker = number % workers
            display.trial(
                worker, f"dpo beta=0.1 seed={worker}", "training", number // workers, 1000
            )
        spent = time.process_time() - begun - drawing * (time.perf_counter() - awake)
    return Shown(1e6 * spent / messages, 1e3 * drawing)
