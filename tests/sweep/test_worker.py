"""What a worker says, and when it ends."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from dpo_bench.experiment import PlannedTrial
from dpo_bench.model.ranks import Ranks
from dpo_bench.progress import SAVING
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.trials import Ended
from dpo_bench.sweep.worker import Event, _serve, _Voice, _why


class Wire:
    """The other end of the pipe; may be gone."""

    def __init__(self, gone: type[Exception] | None = None) -> None:
        self.gone = gone
        self.heard: list[Any] = []

    def send(self, message: Any, /) -> None:
        if self.gone:
            raise self.gone
        self.heard.append(message)

    def recv(self) -> Any:
        raise AssertionError("nothing is asked for")


def test_progress_is_told_when_a_phase_begins_and_ends_and_now_and_then_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 50.0
    monkeypatch.setattr("dpo_bench.sweep.worker.time.monotonic", lambda: now)
    wire = Wire()
    voice = _Voice(wire, lambda: False)
    for done in range(1, 101):
        now += 0.01
        voice.progress("training", done, 100)
    voice.progress("sampling", 1, 8)
    told = [(event.text, event.done) for event in wire.heard]
    assert told[0] == ("training", 1)
    assert told[-2:] == [("training", 100), ("sampling", 1)]
    steps = [done for text, done in told if text == "training"][:-1]
    assert all(20 <= later - earlier <= 22 for earlier, later in itertools.pairwise(steps))
    assert len(steps) == 5
    assert wire.heard[0] == Event("progress", "training", 1, 100)


def test_a_stop_waits_for_the_trainer_and_ends_anything_else() -> None:
    wire = Wire()
    voice = _Voice(wire, lambda: True)
    voice.progress("training", 3, 10)
    assert wire.heard == [], "the trainer saves and stops by itself"
    voice.progress(SAVING, 0, 1)
    assert [word.text for word in wire.heard] == [SAVING], "which may take long: it is said"
    with pytest.raises(SystemExit):
        voice.progress("sampling", 3, 10)


@pytest.mark.parametrize("gone", [BrokenPipeError, ConnectionResetError])
def test_a_worker_that_nobody_hears_ends(gone: type[Exception]) -> None:
    with pytest.raises(SystemExit):
        _Voice(Wire(gone), lambda: False).send("hello?")


def caught(error: Exception) -> Exception:
    """The error as it is after it was raised here."""

    def fails() -> None:
        raise error

    with pytest.raises(type(error)) as found:
        fails()
    return found.value


def test_why_a_worker_could_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", "/full/disk")
    text = _why(caught(OSError(28, "No space left on device", "/full/disk/x")))
    assert text == (
        "a worker could not start: /full/disk/x: No space left on device; this is in the cache, "
        "/full/disk; DPO_BENCH_CACHE puts it elsewhere."
    )
    assert "/full/disk: No space left on device; this is in the cache" in _why(
        caught(OSError(28, "No space left on device"))
    )
    text = _why(caught(RuntimeError("shapes\n  differ " + "x" * 500)))
    assert text.startswith("a worker could not start: RuntimeError: shapes differ xxx")
    assert "(test_worker.py, line " in text
    assert "\n" not in text
    assert len(text) < 450


def test_how_each_trial_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {
        "a": Ended("done"),
        "b": Ended("stopped", "KL 33 is beyond the limit"),
        "c": Ended("failed", "out of luck"),
    }
    limits: list[float | None] = []

    def run_trial(_context: Any, _sweep: Path, task: Task, _control: Any) -> Ended:
        limits.append(task.kl_limit)
        return outcomes[task.identity]

    monkeypatch.setattr("dpo_bench.sweep.trials.run_trial", run_trial)
    tasks = [Task(PlannedTrial("dpo", (), None, 0), name, 16.0) for name in outcomes]
    wire = Wire()
    monkeypatch.setattr(wire, "recv", iter([*tasks, None]).__next__)
    job: Any = SimpleNamespace(folder=Path("sweep"))
    context = Mock(ranks=Ranks(), sources=Mock(device="cpu"))
    _serve(context, job, _Voice(wire, lambda: False))
    assert wire.heard == [
        Event("ended"),
        Event("stopped", "KL 33 is beyond the limit"),
        Event("ended", "out of luck"),
    ]
    assert limits == [16.0] * 3
