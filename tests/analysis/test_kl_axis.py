"""The KL axis: labels are apart, round and inside."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dpo_bench.analysis.kl_axis import is_near, position, ticks


@given(st.floats(0.03, 2000))
def test_labels_are_apart_and_inside_and_begin_at_the_reference(largest: float) -> None:
    labels = ticks(largest)
    assert labels[0] == 0
    assert labels[-1] <= largest
    assert 3 <= len(labels) <= 15
    gaps = [position(b) - position(a) for a, b in itertools.pairwise(labels)]
    assert min(gaps) >= 0.07 * position(largest) - 1e-12


def test_the_range_of_a_typical_sweep_reads_well() -> None:
    assert {0.1, 0.5, 1.0, 2.0, 5.0} <= set(ticks(10.0))


def test_position_is_the_root_and_clips_negative_estimates() -> None:
    assert position(4.0) == 2.0
    assert position(-0.2) == 0.0


def test_labels_reach_as_far_as_policies_do() -> None:
    assert {1_000.0, 10_000.0, 40_000.0} <= set(ticks(40_000.0))


def test_labels_may_be_just_so_far_apart() -> None:
    assert ticks(1.0, spacing=1.0) == [0.0, 1.0]
    assert ticks(4.0, spacing=0.5) == [0.0, 1.0, 4.0]


def test_near_is_a_tenth_of_the_kl_or_of_the_axis() -> None:
    assert is_near(1.2, 1.0), "roots 1.095 and 1"
    assert not is_near(1.22, 1.0)
    assert is_near(0.0, 0.009)
    assert is_near(110.0, 100.0), "roots 10.49 and 10: by its share"
    assert not is_near(111.0, 100.0)
    assert not is_near(0.8, 1.0)
