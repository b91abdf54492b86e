"""Sweeps of simulated workers, small: what the report of `benchmarks.executor` rests on."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.executor.__main__ import PARTS, expected_loss, exponent, main, wrapped
from benchmarks.executor.messages import shown
from benchmarks.executor.sweeps import MEMORY, simulate
from benchmarks.executor.workers import Account, Cluster

STEADY = Cluster(4, node=2, training=(900.0, 900.0), messages=3)


def test_without_failures_time_is_what_can_be_counted(tmp_path: Path) -> None:
    """The first worker loads for 120 s, then the others; a trial is 900 s and 300 s: two turns."""
    outcome = simulate(8, STEADY, tmp_path)
    assert list(outcome.hours) == pytest.approx([(120 + 1200 + 1200 + 120) / 3600])
    account = outcome.account
    assert account.useful == pytest.approx(8 * 1200)
    assert account.prepared == pytest.approx(4 * 120)
    assert account.repeated == account.replaced == account.deaths == 0
    # The first waits for the last trials of the others, who loaded after it.
    assert account.waiting == pytest.approx(120)
    assert outcome.messages == 4 + 8 * (3 + 1)
    assert sorted(account.published.values()) == [1] * 8


def test_failures_cost_what_is_expected_of_them_and_no_trial() -> None:
    """That every trial is done once is asserted by the simulation itself, too."""
    often = replace(STEADY, workers=64, node=1, failures=0.5, repair=60.0, training=(900.0, 2700.0))
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        outcome = simulate(300, often, Path(folder))
    account = outcome.account
    assert account.deaths > 50
    assert len(outcome.hours) > 1
    assert set(account.published.values()) == {1}
    assert len(account.published) == 300
    work = account.useful + account.repeated + account.replaced
    assert account.repeated / work == pytest.approx(expected_loss(often), rel=0.35)


def test_what_is_expected_of_failures_is_worked_out() -> None:
    """One an hour: 1,800 s of training cost 150 s each, 600 s of evaluation 300 s each."""
    cluster = Cluster(1, failures=1.0, training=(1200, 2400), evaluation=600.0, checkpoint=300.0)
    assert expected_loss(cluster) == pytest.approx((0.75 * 150 + 0.25 * 300) / 3600)


def test_a_trial_that_is_done_twice_or_not_at_all_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpo_bench.sweep.schedule import ListSchedule

    def twice(self: ListSchedule, task: object) -> None:
        if not self.computed:
            self.waiting.append(task)  # type: ignore[arg-type]  # the one that has just ended
        self.computed += 1

    monkeypatch.setattr(ListSchedule, "finished", twice)
    with pytest.raises(AssertionError, match="done twice"):
        simulate(8, STEADY, tmp_path)


def test_a_power_is_read_off_costs() -> None:
    assert exponent([(size, 3.0 * size**2) for size in (1, 2, 4, 8)]) == pytest.approx(2)


def test_what_a_terminal_draws_does_not_grow_with_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.executor.messages.SECONDS_TO_DRAW", 0.5)
    few, many = (shown("a terminal", workers, 100).drawing for workers in (16, 1000))
    assert many < 3 * few + 20


def test_paragraphs_are_wrapped_and_tables_are_not() -> None:
    table = "| " + "x " * 80 + "|"
    text = wrapped(f"# {'a ' * 60}\n\n{'word ' * 40}\n\n{table}")
    assert table in text.splitlines()
    assert max(map(len, text.split("\n\n")[1].splitlines())) <= 100


@pytest.mark.slow
def test_the_report_is_written(tmp_path: Path) -> None:
    assert main(["--trials", "64", "--workers", "16", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "--trials 64 --workers 16" in text
    assert text.count("| 64 | 16 |") == 1
    assert len(PARTS) == 4


def test_an_account_adds_up() -> None:
    assert Account(1.0, 2.0, 3.0, 4.0, 5.0).total == 15.0
