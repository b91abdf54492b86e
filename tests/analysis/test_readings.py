"""What a loss reaches at a KL: read run by run, prompt by prompt, never extrapolated."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration.simulate import Losses, expected_reward
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.readings import (
    SPLIT,
    Reading,
    covered_range,
    curves_in_common,
    outline,
    read_all,
)


def runs(kls: list[list[float]], rewards: list[list[float]], prompts: int = 6) -> list[Point]:
    """Points [strength][seed] whose prompts scatter around a run's mean."""
    sides = np.linspace(-0.1, 0.1, prompts)
    return [
        Point(np.array(kl)[:, None] * (1 + 0.5 * sides), np.array(reward)[:, None] + sides)
        for kl, reward in zip(kls, rewards, strict=True)
    ]


def read(curves: Curves, kl: float, loss: str = "a") -> Reading:
    found = curves_in_common(curves)[loss].read(kl)
    assert isinstance(found, Reading), found
    return found


def test_between_two_policies_it_is_straight_in_the_root() -> None:
    found = read({"a": runs([[1.0], [9.0]], [[0.2], [0.8]])}, 4.0)
    assert found.values.mean() == pytest.approx(0.5)
    assert found.bracket == pytest.approx((1.0, 9.0))
    assert found.shares.tolist() == pytest.approx([0.5, 0.5])
    assert found.concentration == pytest.approx(0.5)


def test_each_run_is_read_and_then_averaged() -> None:
    """The seeds' KLs at the second strength are 4 and 16: their mean lies on neither's curve."""
    curves = {"a": runs([[1.0, 1.0], [4.0, 16.0]], [[0.0, 0.0], [0.3, 0.6]])}
    found = read(curves, 2.25)
    by_hand = [0.0 + 0.3 * 0.5, 0.0 + 0.6 * (0.5 / 3)]
    assert found.values.mean(axis=1).tolist() == pytest.approx(by_hand)
    assert found.seed_names == (0, 1)


def test_a_policy_at_the_kl_is_taken_as_it_is() -> None:
    curves = {"a": runs([[1.0], [9.0]], [[0.2], [0.8]])}
    assert read(curves, 0.95).values.mean() == pytest.approx(0.2)
    assert read(curves, 9.8).bracket == pytest.approx((9.0, 9.0))
    outside = curves_in_common(curves)["a"].read(12.0)
    assert outside == "spans KL 1 to 9"
    single = curves_in_common({"a": runs([[3.0]], [[0.2]])})["a"].read(5.0)
    assert single == "has one strength only, at KL 3"


def test_one_seed_of_several_is_not_enough() -> None:
    curves = {"a": runs([[1.0, 1.0], [9.0, 2.0]], [[0.0, 0.0], [0.4, 0.4]])}
    assert curves_in_common(curves)["a"].read(5.0) == (
        "spans KL 1 to 9, at this KL with one seed only"
    )
    assert covered_range(curves_in_common(curves)["a"]) == pytest.approx((1.0, 2.0))


def test_policies_along_training_take_no_part() -> None:
    trained = runs([[1.0], [9.0]], [[0.2], [0.8]])
    along = [Point(one.kl / 2, one.reward - 0.5, step=1) for one in trained]
    trained = [Point(one.kl, one.reward, step=2) for one in trained]
    assert read({"a": [*along, *trained]}, 4.0).values.mean() == pytest.approx(0.5)
    assert sorted(outline([*along, *trained])) == [1, 2]


def test_what_is_common_to_the_losses_does_not_bend_their_difference() -> None:
    """Equal losses whose strengths lie elsewhere: straight lines alone differ by .013 here."""
    losses = Losses((0.0,) * 6, prompts=2000, seeds=3, seed_deviation=0.0, scatter=0.0)
    gaps = []
    for seed in range(6):
        curves = curves_in_common(losses.draw(np.random.default_rng(seed)))
        levels, _ = read_all(curves, [2.0])
        values = {one.loss: one.values.mean() for one in levels[0]}
        even, odd = (np.mean([values[str(i)] for i in part]) for part in ((0, 2, 4), (1, 3, 5)))
        gaps.append(even - odd)
    straight = np.interp(2**0.5, np.sqrt([1.0, 2.5]), expected_reward(np.array([1.0, 2.5])))
    other = np.interp(2**0.5, np.sqrt([1.6, 3.6]), expected_reward(np.array([1.6, 3.6])))
    assert abs(np.mean(gaps)) < 0.3 * abs(straight - other) + 0.004


def test_the_spread_over_prompts_is_that_of_reading_resampled_prompts() -> None:
    """The reading is linear in prompts to first order: its standard error is the bootstrap's."""
    (points,) = (
        Losses((0.0,), prompts=400, seeds=1, scatter=0.0).draw(np.random.default_rng(5)).values()
    )
    found = read({"a": points}, 3.0)
    error = found.values[0].std(ddof=1) / 20
    generator = np.random.default_rng(6)
    means = []
    for _ in range(300):
        drawn = generator.integers(0, 400, 400)
        again = [Point(one.kl[:, drawn], one.reward[:, drawn]) for one in points]
        means.append(read({"a": again}, 3.0).values.mean())
    assert np.std(means) == pytest.approx(error, rel=0.25)  # the choice of nodes varies, too


@pytest.mark.parametrize("bend", [0.0, 0.1])
def test_the_bound_holds_what_reading_is_off_by(bend: float) -> None:
    losses = Losses(
        (0.0,) * 4, prompts=4000, seed_deviation=0.0, scatter=0.0, bends=(0.0, bend, -bend, bend)
    )
    curves = curves_in_common(losses.draw(np.random.default_rng(7)))
    levels, _ = read_all(curves, [3.0])
    values = {one.loss: one.values.mean() for one in levels[0]}
    bounds = {one.loss: one.bias_bound for one in levels[0]}
    for loss in "123":
        gap = values[loss] - values["0"]
        assert abs(gap) < bounds[loss] + bounds["0"] + 3 * 0.4 * (2 / 4000 / 3) ** 0.5 + 0.012
    if bend:
        flat = Losses((0.0,) * 4, prompts=4000, seed_deviation=0.0, scatter=0.0)
        plain, _ = read_all(curves_in_common(flat.draw(np.random.default_rng(7))), [3.0])
        assert np.mean(list(bounds.values())) > np.mean([one.bias_bound for one in plain[0]])


def test_many_noisy_policies_make_one_line_and_sharp_bends_few() -> None:
    noisy = Losses((0.0, 0.0), prompts=32, seeds=1, scatter=0.0)
    found = read(noisy.draw(np.random.default_rng(8)), 3.0, "0")
    assert (found.shares > 0.02).sum() > 2
    place = [0.4, 1.0, 2.5, 5.0, 9.0]
    zigzag = runs([[kl] for kl in place], [[0.0], [0.8], [0.1], [0.9], [0.0]])
    sharp = read({"a": zigzag, "b": zigzag}, 3.0)
    assert (sharp.shares > 0.02).sum() == 2
    assert sharp.bias_bound > 0.2


def test_strengths_that_lead_to_one_kl_by_different_ways_have_no_reward_there() -> None:
    """KL rises and falls with strength: a mean of both branches is on neither."""
    generator = np.random.default_rng(9)

    def point(kl: float, reward: float) -> Point:
        return Point(np.full((3, 100), kl), reward + generator.normal(0, 0.1, (3, 100)))

    curves = {
        "a": [point(0.3, 0.2), point(1.0, 0.6), point(1.05, -0.4), point(4.0, 0.8)],
        "b": [point(0.3, 0.2), point(1.0, 0.6), point(4.0, 0.8)],
    }
    found = curves_in_common(curves)
    assert found["a"].read(1.0) == SPLIT
    assert isinstance(found["b"].read(1.0), Reading)
