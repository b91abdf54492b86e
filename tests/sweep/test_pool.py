"""Trials shared out among workers, some of which die. The workers here are a script, not processes.

Real ones are in `tests/cli/test_interruptions.py`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from dpo_bench.errors import ConfigurationError, DataError
from dpo_bench.experiment import PlannedTrial
from dpo_bench.notes import Note
from dpo_bench.progress import SAVING
from dpo_bench.sweep.display import PlainDisplay
from dpo_bench.sweep.executors.base import WAITING, Channel, Message, WorkerDiedError
from dpo_bench.sweep.executors.machines import Machine
from dpo_bench.sweep.pool import Pool
from dpo_bench.sweep.schedule import ListSchedule
from dpo_bench.sweep.silence import Silence, TimeLimits
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.worker import Event, Job, Ready

READY = Ready({"training_pairs": 3}, Path("reference"), {"backend": "hidden"})
JOB = cast("Job", None)
"""Handed through to the workers, which are a script."""
CTRL_C = KeyboardInterrupt()
Word = Message | KeyboardInterrupt | float
"""What a worker says; a number: it says nothing for so many seconds."""


def tasks(*names: str) -> list[Task]:
    return [Task(PlannedTrial(name, (), None, 0), name) for name in names]


class Line:
    """The line to one worker: it says what its script makes of each task."""

    def __init__(self, number: int, script: Script) -> None:
        self.number, self.script = number, script
        self.given: list[str] = []
        self.ended: list[str] = []
        self.say(script.first(number))

    def say(self, words: Sequence[Word]) -> None:
        self.script.said += [(self, word) for word in words]

    def send(self, task: Task) -> None:
        self.given.append(task[1])
        self.say(self.script.answer(self.number, task[1]))

    def stop(self) -> None:
        self.ended.append("stop")

    def join(self, seconds: float) -> bool:
        assert 0 <= seconds <= 60
        if "join" not in self.ended:
            self.ended.append("join")
        return not self.script.is_deaf

    def place(self) -> str:
        return "my_loss.py, line 7"

    def kill(self) -> None:
        self.ended.append("kill")


class Script:
    """Workers that answer as they are told to, and a display that is kept."""

    def __init__(
        self,
        answer: Callable[[int, str], Sequence[Word]],
        first: Callable[[int], Sequence[Word]] = lambda number: [READY],
    ) -> None:
        self.answer, self.first = answer, first
        self.lines: list[Line] = []
        self.said: deque[tuple[Line, Word]] = deque()
        self.time = 0.0
        self.is_deaf = False
        """Whether workers do not end when they are asked to."""
        self.shown: list[str] = []
        self.ready: list[Ready] = []
        self.notes: list[Note] = []
        self.dead: list[tuple[str, str]] = []

    def machines(self) -> list[Machine]:
        return []

    def spawn(self, job: Job) -> Channel:
        self.lines.append(Line(len(self.lines), self))
        return self.lines[-1]

    def listen(self, seconds: float) -> Sequence[tuple[Channel, Message]]:
        if self.is_deaf and not self.said:
            self.time += seconds
            return []
        assert self.said, "nobody will ever speak again"
        line, word = self.said.popleft()
        if isinstance(word, float):
            self.time += min(seconds, word)
            if word > seconds:
                self.said.appendleft((line, word - seconds))
            return []
        if isinstance(word, KeyboardInterrupt):
            raise word
        return [(line, word)]

    def run(self, *names: str, workers: int = 2, limits: TimeLimits | None = None) -> Script:
        def on_death(task: Task, reason: WorkerDiedError) -> None:
            self.dead.append((task[1], str(reason)))

        display = PlainDisplay(self.shown.append, clock=lambda: 0.0)
        pool = Pool(
            self,
            JOB,
            workers,
            ListSchedule(tasks(*names)),
            display,
            on_ready=self.ready.append,
            on_note=self.notes.append,
            on_death=on_death,
            silence=Silence(limits, clock=lambda: self.time),
        )
        pool.run()
        return self

    def given(self) -> list[list[str]]:
        return [line.given for line in self.lines]


def well(_worker: int, _name: str) -> list[Word]:
    return [Event("ended")]


def test_every_task_is_done_once_and_the_workers_take_turns() -> None:
    script = Script(well).run("a", "b", "c", "d", "e")
    given = script.given()
    assert sorted(name for own in given for name in own) == ["a", "b", "c", "d", "e"]
    assert len(given) == 2
    assert all(own for own in given)
    assert script.shown[-1].startswith("[5/5]")


def test_first_worker_alone_prepares_and_what_it_found_is_told_once() -> None:
    seen: list[int] = []

    def first(number: int) -> list[Word]:
        seen.append(number)
        return [Event("progress", f"reference of {number}", 1, 2), READY]

    script = Script(well, first)
    script.run("a", "b", "c", workers=3)
    assert seen == [0, 1, 2]
    assert script.ready == [READY]
    assert [line for line in script.shown if "reference" in line] == ["reference of 0: 1/2"]


def test_no_more_workers_are_made_than_there_are_tasks() -> None:
    assert len(Script(well).run("a", "b", workers=8).lines) == 2
    assert len(Script(well).run("a", workers=8).lines) == 1


def test_workers_are_asked_to_end_and_none_is_left() -> None:
    for line in Script(well).run("a", "b", "c").lines:
        assert line.ended == ["stop", "join", "kill"]


def test_failed_trial_is_shown_with_its_error_and_the_next_one_follows() -> None:
    def answer(_worker: int, name: str) -> list[Word]:
        return [Event("ended", "out of luck" if name == "a" else "")]

    script = Script(answer).run("a", "b", workers=1)
    assert script.given() == [["a", "b"]]
    outcomes = [line.split(": ", 1)[1].split(" (")[0] for line in script.shown]
    assert outcomes == ["failed: out of luck", "done"]


def test_a_trial_that_was_stopped_early_is_shown_as_no_failure() -> None:
    script = Script(lambda _worker, _name: [Event("stopped", "KL 33")]).run("a", workers=1)
    (line,) = script.shown
    assert "stopped: KL 33" in line
    assert "failed" not in line


def test_notes_are_passed_on() -> None:
    note = Note("INFO", "padded")
    assert Script(well, lambda number: [note, READY]).run("a").notes == [note]


def test_trial_of_a_dead_worker_fails_and_another_worker_takes_its_place() -> None:
    def answer(worker: int, name: str) -> list[Word]:
        return [WorkerDiedError("killed")] if name == "b" else [Event("ended")]

    script = Script(answer).run("a", "b", "c", "d", workers=1)
    assert script.dead == [("b", "killed")]
    assert script.given() == [["a", "b"], ["c", "d"]]
    assert script.lines[0].ended == ["kill"]
    assert script.ready == [READY], "its place is taken; the sweep does not begin anew"
    assert script.shown[-1].startswith("[4/4]")


def test_first_worker_that_dies_while_the_others_prepare_makes_no_more_of_them() -> None:
    """Memory was reckoned for so many workers, not for more."""

    def first(number: int) -> list[Word]:
        return [] if number in {1, 2} else [READY]

    def answer(worker: int, _name: str) -> list[Word]:
        return [WorkerDiedError("killed")] if worker == 0 else [Event("ended")]

    script = Script(answer, first)
    spawn = script.spawn

    def spawn_late(job: Job) -> Channel:
        line = spawn(job)
        if len(script.lines) == 4:  # the one in the place of the dead: now the others are ready too
            script.said.extendleft((other, READY) for other in script.lines[2:0:-1])
        return line

    script.spawn = spawn_late  # type: ignore[method-assign]
    script.run(*"abcdefgh", workers=3)
    assert script.dead == [("a", "killed")]
    assert len(script.lines) == 4
    assert script.ready == [READY]


def test_worker_that_died_at_the_last_trial_is_not_replaced() -> None:
    script = Script(lambda worker, name: [WorkerDiedError("killed")]).run("a", workers=1)
    assert len(script.lines) == 1
    assert script.dead == [("a", "killed")]


def test_worker_that_died_before_its_first_trial_is_not_replaced() -> None:
    """The next would die of the same: the others go on."""

    def first(number: int) -> list[Word]:
        return [WorkerDiedError("no room.")] if number == 1 else [READY]

    script = Script(well, first).run("a", "b", "c")
    assert script.given() == [["a", "b", "c"], []]
    assert script.dead == []
    assert "no room. The others go on." in script.shown


def test_without_any_worker_left_the_sweep_ends() -> None:
    script = Script(well, lambda number: [WorkerDiedError("no room")])
    with pytest.raises(WorkerDiedError, match="no room"):
        script.run("a", "b")
    assert len(script.lines) == 1


def test_what_is_wrong_with_the_data_ends_the_sweep() -> None:
    script = Script(well, lambda number: [DataError("no pairs")])
    with pytest.raises(DataError, match="no pairs"):
        script.run("a")
    assert script.lines[0].ended == ["stop", "join", "kill"]
    assert script.shown == [], "nothing was running that had to be saved"


def test_ctrl_c_says_that_running_trials_are_saved_and_asks_the_workers_to() -> None:
    script = Script(lambda worker, name: [Event("progress", "training", 3, 10), CTRL_C])
    with pytest.raises(KeyboardInterrupt):
        script.run("a", "b", workers=1)
    assert script.shown[-1] == "stopping: saving the running trials (Ctrl-C again: at once)"
    assert script.lines[0].ended == ["stop", "join", "kill"]


TRAINING = Event("progress", "training", 3, 10)


def test_a_worker_that_hangs_is_given_up_and_replaced() -> None:
    def answer(_worker: int, name: str) -> list[Word]:
        return [TRAINING, 700.0] if name == "a" else [Event("ended")]

    script = Script(answer).run("a", "b", workers=1)
    (dead,) = script.dead
    assert dead[0] == "a"
    assert dead[1].startswith("no progress for 601 s (training, 3 of 10, at my_loss.py, line 7)")
    assert script.given() == [["a"], ["b"]]
    assert script.lines[0].ended == ["kill"]


def test_a_silence_of_a_minute_is_explained_once() -> None:
    script = Script(lambda worker, name: [TRAINING, 300.0, Event("ended")]).run("a", workers=1)
    (note,) = [line for line in script.shown if "has said nothing" in line]
    assert "for 61 s (training, 3 of 10); it is given up after 600 s" in note
    assert script.dead == []


@pytest.mark.parametrize(("longest", "limit"), [(20.0, 600), (50.0, 1000)])
def test_the_limit_follows_the_longest_silence_that_was_broken(longest: float, limit: int) -> None:
    script = Script(lambda worker, name: [TRAINING, longest, TRAINING, 1200.0])
    script.run("a", workers=1)
    ((_, reason),) = script.dead
    assert reason.startswith(f"no progress for {limit + 1} s")


def test_a_limit_that_is_asked_for_counts() -> None:
    script = Script(lambda worker, name: [TRAINING, 9.0])
    script.run("a", workers=1, limits=TimeLimits(stall=5))
    assert "no progress for 6 s" in script.dead[0][1]


def test_a_trial_may_take_no_longer_than_it_is_given() -> None:
    words: list[Word] = [word for _ in range(30) for word in (TRAINING, 1.0)]
    script = Script(lambda worker, name: words if name == "a" else [Event("ended")])
    script.run("a", workers=1, limits=TimeLimits(trial=20))
    assert script.dead[0][1].startswith("not done after 21 s (training, 3 of 10)")


def test_a_first_worker_that_hangs_while_it_prepares_ends_the_sweep() -> None:
    script = Script(well, lambda number: [Event("progress", "reference: rewards", 0, 9), 700.0])
    with pytest.raises(WorkerDiedError, match=r"no progress .*reference: rewards, 0 of 9"):
        script.run("a")


def test_a_worker_that_waits_for_a_place_is_waited_for() -> None:
    waits = Event("progress", f"{WAITING} (1 CPU)", 0, 1)
    assert Script(well, lambda number: [waits, 9999.0, READY]).run("a", workers=1).dead == []


def test_waiting_for_a_place_is_no_silence_that_a_limit_follows() -> None:
    waits = Event("progress", f"{WAITING} (1 CPU)", 0, 1)
    script = Script(lambda worker, name: [TRAINING, 700.0], lambda number: [waits, 9999.0, READY])
    script.run("a", workers=1)
    assert script.dead[0][1].startswith("no progress for 601 s")


def test_a_worker_that_has_found_its_place_is_expected_to_speak() -> None:
    placed = Event("progress", f"{WAITING} (1 CPU)", 1, 1)
    script = Script(well, lambda number: [placed, 700.0])
    with pytest.raises(WorkerDiedError, match="no progress for 601 s"):
        script.run("a", workers=1)


def test_time_in_which_the_sweep_itself_stood_still_is_no_silence() -> None:
    """A machine that slept, a process that was stopped."""
    script = Script(lambda worker, name: [TRAINING, 5.0, Event("ended")])
    listen = script.listen

    def after_a_night(seconds: float) -> Sequence[tuple[Channel, Message]]:
        script.time += 30000.0 if script.time == 3.0 else 0.0
        return listen(seconds)

    script.listen = after_a_night  # type: ignore[method-assign]
    assert script.run("a", workers=1).dead == []


@pytest.mark.parametrize(
    ("pace", "seconds"), [(0.5, 2), (4.0, 12)], ids=["quick steps", "slow steps"]
)
def test_ctrl_c_waits_for_a_worker_no_longer_than_its_steps_explain(
    pace: float, seconds: int
) -> None:
    words: list[Word] = [TRAINING, pace, TRAINING, pace, TRAINING, CTRL_C]
    script = Script(lambda worker, name: words)
    script.is_deaf = True
    with pytest.raises(KeyboardInterrupt):
        script.run("a", workers=1)
    assert script.time - 2 * pace == pytest.approx(seconds, abs=0.3)


def test_ctrl_c_waits_for_a_worker_that_saves() -> None:
    words: list[Word] = [TRAINING, CTRL_C, Event("progress", SAVING, 0, 1)]
    script = Script(lambda worker, name: words)
    script.is_deaf = True
    with pytest.raises(KeyboardInterrupt):
        script.run("a", workers=1)
    assert script.time == pytest.approx(600, abs=0.3)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_limit_must_be_above_0(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=r"--stall-timeout .* above 0"):
        TimeLimits(stall=seconds)
    with pytest.raises(ConfigurationError, match=r"--trial-timeout .* above 0"):
        TimeLimits(trial=seconds)


def calls_per_message(workers: int) -> float:
    """Python's calls, resumed generators among them, for each message of progress."""
    script = Script(well)
    pool = Pool(
        script,
        JOB,
        workers,
        ListSchedule(tasks(*map(str, range(workers)))),
        PlainDisplay(script.shown.append, clock=lambda: 0.0),
        on_ready=script.ready.append,
        on_note=script.notes.append,
        on_death=lambda task, reason: None,
    )
    said = [Event("progress", "training", done, 10) for done in range(10)]
    script.answer = lambda worker, name: [*said, *well(worker, name)]
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        pool.run()
    finally:
        sys.setprofile(None)
    assert len(script.shown) >= workers
    return calls / (workers * 12)


def test_a_message_costs_as_much_with_many_workers_as_with_few() -> None:
    assert calls_per_message(400) == pytest.approx(calls_per_message(20), rel=0.1)
