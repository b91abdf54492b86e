"""Simulated sweeps to which seeds are added at planned looks."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration.planned_looks import carried_out, nothing_differs
from benchmarks.calibration.simulate import Losses


@pytest.mark.slow
def test_adding_seeds_makes_no_more_false_verdicts() -> None:
    losses = Losses((0.0,) * 4, prompts=64, seeds=10, grid="targets")
    assert nothing_differs(losses, None, 20).holds


def test_what_is_decided_is_given_no_further_seeds() -> None:
    losses = Losses((0.0, 0.6, 0.0), seeds=10, grid="targets")
    found = carried_out(losses.draw(np.random.default_rng(0)), 0)
    assert found.seeds == {"0": 10, "1": 3, "2": 10}
    assert {one.verdict for one in found.family.all if one.first == "1"} == {"better"}
    assert all(one.compared for one in found.family.all)
