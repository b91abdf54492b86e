"""A few cases of the calibration table at low cost; all of them when slow tests run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.calibration import __main__ as command
from benchmarks.calibration.cases import length_control, mean, peak, strengths, win_rate
from benchmarks.calibration.frontier_cases import bias, pooled_rows, reference_rows
from benchmarks.calibration.rows import Row, at_least, coverage, false_verdicts
from benchmarks.calibration.simulate import LEVELS, Losses
from benchmarks.calibration.verdicts import chosen, matched, nothing_better, nothing_same, power


@pytest.mark.parametrize(
    "rows",
    [
        lambda: [mean("exponential", 64, 1000)],
        lambda: [win_rate(250)],
        lambda: [length_control(40)],
        lambda: [strengths(60)],
        lambda: [peak(3, 120)],
        lambda: matched(Losses((0.0, 0.05, 0.0), seed_deviation=0.0), "", 60),
        lambda: matched(Losses((0.0, 0.05, 0.0), prompts=32, noise="t3"), "", 60),
        lambda: matched(Losses((0.0, 0.0, 0.0), noise="binary", wins=0.98), "", 60),
        lambda: [nothing_better(Losses((0.0,) * 6, grid="targets", scatter=0.3), "", 60)],
        lambda: [nothing_better(Losses((0.0,) * 6, prompts=1024, scatter=0.3), "", 40)],
        lambda: [nothing_same(Losses((0.0, 0.1)), 0.1, "", 60)],
        lambda: [power(60)],
        lambda: [chosen(20, 1024, 3, 0.05, 60)],
        lambda: reference_rows(30),
        lambda: pooled_rows(15),
    ],
)
def test_case_is_within_its_range(rows: Callable[[], list[Row]]) -> None:
    for row in rows():
        assert row.holds, row


def test_one_seed_separates_no_losses() -> None:
    row = nothing_better(Losses((0.0, 0.5), seeds=1), "", 10, LEVELS)
    assert row.share == 0


def test_frontier_is_unbiased_and_blank_beyond_its_range() -> None:
    found = bias("saturating", 16, 8)
    assert found.levels[1] is None
    assert found.levels[0] is not None
    assert abs(found.levels[0]) < 0.01 + 3 * found.error


def test_row_outside_its_range_is_found() -> None:
    assert coverage("x", "y", [True] * 95 + [False] * 5).holds
    assert not coverage("x", "y", [True] * 80 + [False] * 20).holds
    assert not coverage("x", "y", [True] * 1000).holds
    assert false_verdicts("x", "y", [False] * 100).holds
    assert not false_verdicts("x", "y", [False] * 85 + [True] * 15).holds
    assert not at_least("x", "y", [True] * 50 + [False] * 50, 0.7, "").holds


@pytest.mark.slow
def test_every_case_is_within_its_range() -> None:
    rows = [row for work in command.all_rows(300) for row in work()]
    assert not [row for row in rows if not row.holds]


def test_published_table_lists_every_kind_and_holds() -> None:
    text = command.REPORT.read_text(encoding="utf-8")
    assert Path(command.REPORT).parent.name == "calibration"
    assert "**outside**" not in text
    for figure in (
        "matched-KL difference",
        "any false verdict",
        "a difference of .08 is found",
        "best of 60 equal settings",
        "optimal frontier",
    ):
        assert f"| {figure}" in text
