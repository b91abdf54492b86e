from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.calibration.enumerable import NormalWorld
from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.tilting import FOLDS, PolicySamples, Tilt, Tilting

INVERSE = 1.7


def _tilt_of_shares(
    rewards: Array, policies: PolicySamples, shares: Array, monkeypatch: pytest.MonkeyPatch
) -> Tilt:
    tilting = Tilting(rewards, policies)
    monkeypatch.setattr(tilting, "shares", lambda _inverse: shares)
    return tilting.at(INVERSE)


def test_without_policies_the_correction_is_the_plain_jackknife() -> None:
    shortfall = np.sort(np.random.default_rng(0).normal(size=(3, 6)), axis=1)
    shortfall -= shortfall[:, -1:]

    def plain(row: Array) -> Array:
        lifted = np.exp(INVERSE * row)
        return np.array([np.log(lifted.mean()), (lifted * row).sum() / lifted.sum()])

    expected = []
    for row in shortfall:
        left_out = [plain(np.delete(row, index)) for index in range(6)]
        expected.append(6 * plain(row) - 5 * np.mean(left_out, axis=0))
    partition, reward = np.array(expected).T
    tilt = Tilting(shortfall).at(INVERSE)
    np.testing.assert_allclose(tilt.reward, reward, rtol=1e-12)
    np.testing.assert_allclose(tilt.kl, INVERSE * reward - partition, rtol=1e-12)


def test_with_policies_each_draw_is_left_out_by_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(1)
    rewards = -generator.exponential(size=(4, 5))
    policies = PolicySamples(
        -generator.exponential(size=(2, 4, 3)), generator.normal(size=(2, 4, 3))
    )
    shares = np.array([[0.2], [0.4]]).repeat(4, axis=1)
    found = _tilt_of_shares(rewards, policies, shares, monkeypatch)
    for prompt in range(4):
        # of each draw its share, its weight w and the same times the reward
        draws = [
            (0.4 / 5, math.exp(INVERSE * r), r * math.exp(INVERSE * r)) for r in rewards[prompt]
        ]
        for response in range(3):
            own = policies.rewards[:, prompt, response]
            w = np.exp(INVERSE * own - policies.logratio[:, prompt, response])
            part = np.array([0.2, 0.4]) / 0.6
            draws.append((0.2, float(part @ w), float(part @ (w * own))))
        share, weight, moment = np.array(draws).T

        def figures(kept: Array, parts: tuple[Array, ...] = (share, weight, moment)) -> Array:
            c, w, m = (part[kept] for part in parts)
            z = (c * w).sum() / c.sum()
            return np.array([math.log(z), (c * m).sum() / c.sum() / z])

        everything = np.ones(8, dtype=bool)
        whole = figures(everything)
        corrected = whole.copy()
        for index in range(8):
            kept = everything.copy()
            kept[index] = False
            corrected += (1 - share[index]) * (whole - figures(kept))
        assert found.reward[prompt] == pytest.approx(corrected[1])
        assert found.kl[prompt] == pytest.approx(INVERSE * corrected[1] - corrected[0])


def test_cold_tilts_lose_no_precision() -> None:
    tilt = Tilting(np.array([[-90.0, -80.0, -60.0, 0.0]])).at(1.0)
    left_out = [math.log(1 / 3)] * 3 + [math.log(math.exp(-60) / 3)]
    partition = 4 * math.log(1 / 4) - 3 * sum(left_out) / 4
    reward = -3 * -60 / 4
    assert tilt.reward[0] == pytest.approx(reward, rel=1e-7)
    assert tilt.kl[0] == pytest.approx(reward - partition, rel=1e-7)


def test_effective_draws_are_all_where_nothing_is_tilted_and_few_where_it_is_cold() -> None:
    tilting = Tilting(-np.arange(10.0).repeat(4).reshape(10, 4).T)
    assert tilting.at(0.0).effective == 10
    assert tilting.at(50.0).effective == pytest.approx(1)


class TestShares:
    WORLD = NormalWorld(prompts=512)

    def _shares(self, drawn: list[tuple[Array, Array]], inverse: float) -> Array:
        policies = PolicySamples(*(np.stack(one) for one in zip(*drawn, strict=True)))
        return Tilting(self.WORLD.sample(16, 0), policies).shares(inverse)

    def test_nothing_is_given_to_policies_where_the_reference_is_exact(self) -> None:
        assert not self._shares([self.WORLD.draw(0.9, 1.0, 2, 1)], 0.0).any()

    def test_go_to_the_policy_that_is_the_tilted_reference(self) -> None:
        # at 1 / beta = sqrt(2) the tilt has KL 1: the first policy is the tilted reference itself
        drawn = [self.WORLD.draw(1.0, 1.0, 2, 1), self.WORLD.draw(0.5, 1.0, 2, 2)]
        first, second = self._shares(drawn, math.sqrt(2)).mean(axis=1)
        assert first > 0.9
        assert second < 0.02

    def test_are_inverse_variances(self) -> None:
        # w / Z is log-normal; its log has the variance t^2 for the reference, and for a policy
        # t^2 - 2 t a m + m^2, moved by m with accuracy a (tests' own algebra of normals)
        inverse, moved, accuracy = 0.8, 0.6, 0.7
        logs = inverse**2, inverse**2 - 2 * inverse * accuracy * moved + moved**2
        reference, policy = (math.exp(one) - 1 for one in logs)
        expected = (2 / policy) / (2 / policy + 16 / reference)
        found = self._shares([self.WORLD.draw(accuracy, moved**2 / 2, 2, 1)], inverse)
        assert found.mean() == pytest.approx(expected, rel=0.25)

    def test_do_not_depend_on_the_prompts_that_they_serve(self) -> None:
        drawn = self.WORLD.draw(0.9, 1.0, 2, 1)
        changed = tuple(part.copy() for part in drawn)
        changed[0][::FOLDS] += np.random.default_rng(5).normal(size=changed[0][::FOLDS].shape)
        before, after = (self._shares([one], 0.7) for one in (drawn, (changed[0], changed[1])))
        np.testing.assert_array_equal(before[:, ::FOLDS], after[:, ::FOLDS])
        assert (before[:, 1] != after[:, 1]).all()


@pytest.mark.parametrize(
    ("rewards", "logratio", "said"),
    [
        (np.zeros((2, 3, 1)), np.zeros((2, 3)), "must both be"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "must both be"),
        (np.zeros((0, 3, 2)), np.zeros((0, 3, 2)), "must both be"),
        (np.full((2, 3, 1), math.nan), np.zeros((2, 3, 1)), "missing or infinite"),
        (np.zeros((2, 3, 1)), np.full((2, 3, 1), math.inf), "missing or infinite"),
    ],
)
def test_unusable_samples_are_refused(rewards: Array, logratio: Array, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PolicySamples(rewards, logratio)
