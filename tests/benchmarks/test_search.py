"""The comparison of the search with grids, at low cost."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

import pytest

from benchmarks.search.__main__ import OWN, RATE, STRENGTH, Line, main, pooled, ratios
from benchmarks.search.strategies import grid, searched
from benchmarks.search.worlds import BASELINE, World, curves, spread


def test_a_curve_goes_through_what_was_measured_and_levels_beyond() -> None:
    curve = curves()["dpo"]
    for strength, log_kl in zip(curve.strengths, curve.log_kl, strict=True):
        assert curve.at(strength)[0] == pytest.approx(log_kl)
    beyond = [curve.at(3.0 * 10**power)[0] for power in range(7)]
    steps = [first - second for first, second in itertools.pairwise(beyond)]
    assert steps == sorted(steps, reverse=True)
    assert 0 < steps[-1] < 0.2 * steps[0]


def test_a_world_is_the_same_however_it_is_asked() -> None:
    first, second = World(3, 5, prompts=16), World(3, 5, prompts=16)
    second.run(BASELINE, 0.1, 1)
    assert (first.run(BASELINE, 0.3, 0)[1] == second.run(BASELINE, 0.3, 0)[1]).all()
    assert first.heights == second.heights
    assert World(4, 5).heights != first.heights


def test_rewards_have_their_true_difference() -> None:
    world = World(0, 38, prompts=4096)
    (kl,), (reward,) = zip(world.run(BASELINE, 1.0, 0), strict=True)
    assert math.log(kl.mean()) == pytest.approx(curves()[BASELINE].at(1.0)[0], abs=0.15)
    assert reward.mean() == pytest.approx(math.tanh(0.1 + 0.28 * kl.mean() ** 0.5), abs=0.06)


def test_a_wider_grid_has_the_strengths_asked_for() -> None:
    assert spread((0.1, 1.0, 10.0), 3) == pytest.approx([0.1, 1.0, 10.0])
    assert spread((0.1, 1.0, 10.0), 5, wider=10) == pytest.approx([0.01, 0.1, 1.0, 10.0, 100.0])


def test_grid_and_search_find_differences_in_one_world() -> None:
    world = World(0, 4, prompts=128)
    fixed = grid(world, 5, 3)
    found = searched(world, (3, 3), by_rate=True)
    assert fixed.trials == 4 * 5 * 3
    assert len(found.compared) == 3 * 5
    assert found.trials < 4 * 40
    for one in (fixed, found):
        assert one.right <= one.compared
        assert all(world.heights[loss] != 0 for loss, _ in one.right)


def test_a_ratio_is_that_of_the_cheapest_grid_that_gets_there() -> None:
    def line(strategy: str, trials: float, right: int, compared: int) -> Line:
        return Line(4, 0, "3", strategy, trials, 15, compared, 10, right, 0)

    lines = [
        line(OWN, 60, 3, 8),
        line("10 strengths, same range", 120, 5, 8),
        line("20 strengths, same range", 240, 6, 9),
        line(STRENGTH, 80, 5, 9),
        line(RATE, 100, 7, 15),
    ]
    assert ratios(lines, STRENGTH, "3", "right") == {4: [1.5]}
    assert ratios(lines, STRENGTH, "3", "compared") == {4: [3.0]}
    assert ratios(lines, RATE, "3", "compared") == {4: [None]}


def test_worlds_are_pooled_by_their_sums() -> None:
    lines = [Line(4, world, "3", OWN, 60.0, 15, 8 + world, 10, 3, 1) for world in range(2)]
    assert pooled(lines) == [Line(0, 0, "3", OWN, 120.0, 30, 17, 20, 6, 2)]


@pytest.mark.slow
def test_the_report_is_written(tmp_path: Path) -> None:
    assert main(["--worlds", "1", "--losses", "4", "--out", str(tmp_path)]) == 0
    with (tmp_path / "worlds.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["seeds"] for row in rows} == {"3", "10", "3 to 10"}
    assert "to decide as many" in (tmp_path / "README.md").read_text(encoding="utf-8")
