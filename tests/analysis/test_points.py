"""The policies that curves go through, by their step of training."""

from __future__ import annotations

from dpo_bench.analysis.points import Point, by_step, trained


def points(*steps: int) -> list[Point]:
    return [Point([1.0 * index], [0.0], step=step) for index, step in enumerate(steps)]


def test_points_of_a_step_belong_together_in_order_of_the_steps() -> None:
    found = by_step(points(9, 5, 9, 1))
    assert found == {1: [3], 5: [1], 9: [0, 2]}
    assert list(found) == [1, 5, 9]


def test_trained_are_those_of_the_last_step() -> None:
    assert [one.mean_kl for one in trained(points(9, 5, 9, 1))] == [0.0, 2.0]
    assert trained([]) == []
