"""A few cases of the calibration table at low cost; all of them when slow tests run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.calibration import __main__ as command
from benchmarks.calibration.cases import (
    all_cases,
    area,
    length_control,
    matched_difference,
    mean,
    null_family,
    peak,
    strengths,
    win_rate,
)
from benchmarks.calibration.frontier_cases import bias
from benchmarks.calibration.rows import Row, coverage, false_separations


@pytest.mark.parametrize(
    "row",
    [
        lambda: mean("exponential", 64, 1000),
        lambda: win_rate(250),
        lambda: length_control(40),
        lambda: strengths(60),
        lambda: matched_difference(1, 0.0, 100),
        lambda: matched_difference(3, 0.1, 60),
        lambda: area(1, 0.0, 30),
        lambda: peak(3, 120),
        lambda: null_family(1, 1, 60),
    ],
    ids=["mean", "win rate", "length", "strengths", "1 seed", "3 seeds", "area", "peak", "null"],
)
def test_case_is_within_its_range(row: object) -> None:
    assert callable(row)
    found = row()
    assert isinstance(found, Row)
    assert found.holds, found


def test_resampling_few_seeds_is_too_narrow() -> None:
    found = matched_difference(2, 0.1, 80)
    assert found.plain is not None
    assert found.plain < 0.92
    assert found.plain < found.share


def test_frontier_is_unbiased_and_blank_beyond_its_range() -> None:
    found = bias("saturating", 16, 8)
    assert found.levels[1] is None
    assert found.levels[0] is not None
    assert abs(found.levels[0]) < 0.01 + 3 * found.error


def test_row_outside_its_range_is_found() -> None:
    assert coverage("x", "y", [True] * 95 + [False] * 5).holds
    assert not coverage("x", "y", [True] * 80 + [False] * 20).holds
    assert not coverage("x", "y", [True] * 1000).holds
    assert false_separations("x", "y", [False] * 100).holds
    assert not false_separations("x", "y", [False] * 85 + [True] * 15).holds


@pytest.mark.slow
def test_every_case_is_within_its_range() -> None:
    outside = [row for row in all_cases(600) if not row.holds]
    assert not outside


def test_published_table_lists_every_case() -> None:
    text = command.REPORT.read_text(encoding="utf-8")
    assert Path(command.REPORT).parent.name == "calibration"
    assert "**outside**" not in text
    for figure in ("mean", "paired difference", "win rate", "matched-KL difference", "peak"):
        assert f"| {figure}" in text
