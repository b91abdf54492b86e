"""Which pairs a seed draws."""

from __future__ import annotations

import numpy as np
import pytest

from dpo_bench.data.batches import step_order
from dpo_bench.data.resample import bootstrap_pairs


def test_a_seed_always_draws_the_same() -> None:
    first, again = bootstrap_pairs(1000, 3), bootstrap_pairs(1000, 3)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63])
def test_as_many_are_drawn_as_there_are_and_in_their_order(seed: int) -> None:
    drawn = bootstrap_pairs(1000, seed)
    assert len(drawn) == 1000
    assert drawn.min() >= 0
    assert drawn.max() < 1000
    assert (np.diff(drawn) >= 0).all()


def test_seeds_draw_apart_from_each_other() -> None:
    """Two bootstrap samples share the pairs that are in both: (1 - 1/e) squared, about 40%."""
    first, second = set(bootstrap_pairs(5000, 0)), set(bootstrap_pairs(5000, 1))
    assert len(first) / 5000 == pytest.approx(1 - np.exp(-1), abs=0.02)
    assert len(first & second) / 5000 == pytest.approx((1 - np.exp(-1)) ** 2, abs=0.02)


def test_draws_are_those_of_a_bootstrap() -> None:
    """How often a pair is drawn has mean 1 and variance 1 - 1/n."""
    counts = np.array([np.bincount(bootstrap_pairs(50, seed), minlength=50) for seed in range(400)])
    assert counts.sum(axis=1).tolist() == [50] * 400
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.25)
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.03)


def test_the_draw_has_nothing_to_do_with_the_order() -> None:
    drawn = bootstrap_pairs(200, 7)
    order = np.array([index for step in step_order(200, 200, 1, 7) for index in step])
    assert abs(np.corrcoef(drawn, order)[0, 1]) < 0.25
