"""Planned looks share the 5%."""

from __future__ import annotations

import pytest

from benchmarks.calibration.verdicts import looks
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
    assert looks(40).holds
