"""Planned looks share the 5%."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration.planned_looks import carried_out, nothing_differs
from benchmarks.calibration.simulate import Losses
from dpo_bench.analysis.looks import levels_of_looks


def test_looks_spend_all_of_it_and_no_more() -> None:
    for seeds in ([3, 10], [2, 3, 4, 5], [5]):
        levels = levels_of_looks(seeds)
        assert sum(levels) == pytest.approx(0.05)
        assert min(levels) > 0


@pytest.mark.parametrize("seeds", [[], [3, 3], [5, 3], [0, 2]])
def test_looks_must_rise(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match="do not rise"):
        levels_of_looks(seeds)


def test_adding_seeds_makes_no_more_false_verdicts() -> None:
    losses = Losses((0.0,) * 4, prompts=64, seeds=10, grid="targets")
    assert nothing_differs(losses, None, 20).holds


def test_what_is_decided_is_given_no_further_seeds() -> None:
    losses = Losses((0.0, 0.6, 0.0), seeds=10, grid="targets")
    found = carried_out(losses.draw(np.random.default_rng(0)), 0)
    assert found.seeds == {"0": 10, "1": 3, "2": 10}
    assert {one.verdict for one in found.family.all if one.first == "1"} == {"better"}
    assert all(one.compared for one in found.family.all)
