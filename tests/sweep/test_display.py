"""What a person sees while a sweep runs."""

from __future__ import annotations

import io
import json
import re
from datetime import datetime

from rich.console import Console

from dpo_bench.sweep.display import Display, JsonDisplay, LiveDisplay, PlainDisplay, make_display


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
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[bold\]as it is\n", stream.getvalue())


def test_a_log_hears_where_a_long_trial_is() -> None:
    lines: list[str] = []
    clock = Clock()
    display = PlainDisplay(lines.append, clock)
    for step in range(200):
        clock.now += 1
        display.trial(0, "dpo beta=0.1 seed=0", "training", step, 200)
    assert lines == [f"dpo beta=0.1 seed=0: training {step}/200" for step in (60, 121, 182)]


def test_a_narrow_terminal_keeps_its_numbers() -> None:
    stream = io.StringIO()
    display = make_display(Console(file=stream, force_terminal=True, width=40))
    with display:
        display.start(163)
        display.trial(0, "a loss with a long name beta=0.1", "training", 1163, 1500)
        display.finished("another", None)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    last = [line for line in re.split(r"[\r\n]+", shown) if line][-2:]
    assert re.search(r"trials +1/163 +0:00:00 +-:--:--", last[0])
    assert last[1] == "0: a loss wit… 1163/1500 0:00:00 -:--:--"


def test_quiet_leaves_warnings_and_failures() -> None:
    stream = io.StringIO()
    with make_display(Console(file=stream, force_terminal=True), "quiet") as display:
        display.note("padded")
        display.note("extrapolates", warning=True)
        display.phase("sampling", 1, 2)
        display.start(2)
        display.trial(0, "dpo", "training", 1, 2)
        display.finished("dpo", None)
        display.finished("ipo", "diverged")
    assert stream.getvalue() == "warning: extrapolates\nipo failed: diverged\n"


def test_a_program_gets_json_lines() -> None:
    stream = io.StringIO()
    with make_display(Console(file=stream, width=20), "json") as display:
        display.note("a long note é that no narrow terminal may break", warning=True)
        for done in range(3):
            display.phase("sampling", done, 2)
        display.start(1)
        display.trial(0, "dpo", "training", 1, 2)
        display.finished("dpo", None)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(
        datetime.fromisoformat(event.pop("time")).utcoffset() is not None for event in events
    )
    assert events == [
        {"event": "warning", "text": "a long note é that no narrow terminal may break"},
        {"event": "phase", "phase": "sampling", "done": 0, "total": 2},
        {"event": "phase", "phase": "sampling", "done": 2, "total": 2},
        {"event": "start", "trials": 1},
        {"event": "trial", "worker": 0, "trial": "dpo", "phase": "training", "done": 1, "total": 2},
        {"event": "finished", "trial": "dpo", "error": None},
    ]


def search(display: Display) -> None:
    """What a search tells."""
    with display:
        display.start(5)
        display.seek(["dpo", "simpo"], [0.5, 8.0])
        display.finished("dpo beta=0.1 seed=0", None)
        display.total(7)
        display.target("dpo", 0.5, "beta 0.31, KL 0.52")
        display.target("simpo", 8.0, "KL stays between 5.6 and 6.1", met=False)
        display.finished("dpo beta=0.01 seed=0", "KL 33 after 30 of 120 steps", stopped=True)
        display.verdicts("3 seeds: 4 better, 2 worse")


def test_a_log_hears_of_a_search_a_line_each() -> None:
    lines: list[str] = []
    search(PlainDisplay(lines.append, Clock()))
    assert lines == [
        "2 losses to be brought to KL 0.5, 8",
        "[1/5] dpo beta=0.1 seed=0: done (0 s left)",
        "dpo is at KL 0.5: beta 0.31, KL 0.52",
        "simpo cannot reach KL 8: KL stays between 5.6 and 6.1",
        "[2/7] dpo beta=0.01 seed=0: stopped: KL 33 after 30 of 120 steps (0 s left)",
        "verdicts: 3 seeds: 4 better, 2 worse",
    ]


def test_a_stopped_trial_is_no_failure_to_the_quiet() -> None:
    stream = io.StringIO()
    search(make_display(Console(file=stream), "quiet"))
    assert stream.getvalue() == ""


def test_a_program_hears_of_a_search() -> None:
    stream = io.StringIO()
    search(make_display(Console(file=stream), "json"))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    for event in events:
        del event["time"]
    assert events == [
        {"event": "start", "trials": 5},
        {"event": "seek", "losses": ["dpo", "simpo"], "kls": [0.5, 8.0]},
        {"event": "finished", "trial": "dpo beta=0.1 seed=0", "error": None},
        {"event": "total", "trials": 7},
        {"event": "target", "loss": "dpo", "kl": 0.5, "met": True, "text": "beta 0.31, KL 0.52"},
        {
            "event": "target",
            "loss": "simpo",
            "kl": 8.0,
            "met": False,
            "text": "KL stays between 5.6 and 6.1",
        },
        {
            "event": "stopped",
            "trial": "dpo beta=0.01 seed=0",
            "reason": "KL 33 after 30 of 120 steps",
        },
        {"event": "verdicts", "text": "3 seeds: 4 better, 2 worse"},
    ]


def live(height: int) -> str:
    """The last picture of a live display."""
    stream = io.StringIO()
    search(make_display(Console(file=stream, force_terminal=True, width=100, height=height)))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    return shown[shown.rindex("trials") :]


def test_a_terminal_shows_what_is_met_below_the_bars() -> None:
    whole = live(30)
    assert re.search(r"trials .* 2/7 ", whole)
    rows = [line.split() for line in whole.splitlines()]
    assert ["KL", "(nats)", "0.5", "8"] in rows
    assert ["dpo", "\u2713", "\u00b7"] in rows
    assert ["simpo", "\u00b7", "\u2717"] in rows
    assert "verdicts: 3 seeds: 4 better, 2 worse" in whole
    stream = io.StringIO()
    search(make_display(Console(file=stream, force_terminal=True, width=100)))
    assert "simpo cannot reach KL 8: KL stays between 5.6 and 6.1" in stream.getvalue()
    assert "stopped:" in stream.getvalue()


def test_a_low_terminal_has_room_for_counts_alone() -> None:
    text = live(5)  # a bar, the verdicts and a free line leave two
    assert "losses at KL 0.5: 1/2, 8: 0/2 (1 cannot)" in text
    assert "(nats)" not in text
    assert "losses at KL" not in live(3)
    assert "verdicts" in live(3)


def test_a_terminal_shows_the_first_of_many_workers() -> None:
    stream = io.StringIO()
    display = make_display(Console(file=stream, force_terminal=True, width=100, height=60))
    assert isinstance(display, LiveDisplay)
    with display:
        display.start(2000)
        for worker in range(1000):
            display.trial(worker, f"dpo seed={worker}", "training", 1, 10)
        for worker in range(1000):
            display.trial(worker, f"ipo seed={worker}", "sampling", 2, 10)
        assert len(display.progress.tasks) == 17
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    last = shown[shown.rindex("trials") :]
    assert "15: ipo seed=15: sampling" in last
    assert "16: " not in shown
    assert "and 984 workers more" in last


def test_a_program_is_told_of_a_phase_again_after_some_seconds_and_of_each_trials() -> None:
    lines: list[str] = []
    clock = Clock()
    display = JsonDisplay(lines.append, clock)
    for label in ("a", "b", "a"):
        for done in range(3):
            display.trial(0, label, "training", done, 9)
            display.trial(0, label, "sampling", done, 9)
        clock.now += 5
        display.trial(0, label, "training", 9, 9)
    told = [(one["trial"], one["phase"], one["done"]) for one in map(json.loads, lines)]
    first = [("training", 0), ("sampling", 0), ("training", 9)]
    assert told == [(label, *rest) for label in ("a", "b", "a") for rest in first]
    assert len(display.last) == 1, "what was said of trials that have ended is forgotten"
