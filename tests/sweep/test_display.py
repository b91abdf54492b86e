"""What a person sees while a sweep runs."""

from __future__ import annotations

import io

from rich.console import Console

from dpo_bench.sweep.display import LiveDisplay, PlainDisplay, make_display


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_tell_each_trial_and_the_time_left() -> None:
    lines: list[str] = []
    clock = Clock()
    with PlainDisplay(lines.append, clock) as display:
        display.start(4)
        clock.now += 10
        display.finished("dpo beta=0.1 seed=0", None)
        clock.now += 10
        display.finished("ipo beta=0.1 seed=0", "loss stopped being finite")
    assert lines == [
        "[1/4] dpo beta=0.1 seed=0: done (30 s left)",
        "[2/4] ipo beta=0.1 seed=0: failed: loss stopped being finite (20 s left)",
    ]


def test_plain_lines_do_not_flood_a_log() -> None:
    lines: list[str] = []
    clock = Clock()
    display = PlainDisplay(lines.append, clock)
    for done in range(1, 1001):
        clock.now += 0.01
        display.phase("world", done, 1000)
    assert lines[0] == "world: 1/1000"
    assert lines[-1] == "world: 1000/1000"
    assert len(lines) <= 4


def test_a_terminal_gets_bars_for_all_and_for_each_worker() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    display = make_display(console)
    assert isinstance(display, LiveDisplay)
    with display:
        display.phase("world [x]", 1, 2)
        display.start(2)
        display.trial(0, "dpo beta=0.1", "training", 3, 10)
        display.trial(1, "ipo beta=0.1", "sampling", 5, 10)
        display.trial(0, "hinge beta=0.1", "training", 1, 10)
        display.finished("dpo beta=0.1", "diverged [/]")
    text = stream.getvalue()
    for part in ("world [x]", "trials", "hinge beta=0.1: training", "diverged [/]", "1/2"):
        assert part in text


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    display = make_display(Console(file=stream, force_terminal=False))
    assert isinstance(display, PlainDisplay)
    display.note("[bold]as it is")
    assert stream.getvalue() == "[bold]as it is\n"
