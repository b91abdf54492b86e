"""Which policies stand for their losses, on grids whose KLs are squares."""

from __future__ import annotations

import pytest

from dpo_bench.analysis.loss_curves import GridPoint, LossCurve
from dpo_bench.analysis.matched_policies import MatchedPolicies, matched_policies
from dpo_bench.analysis.results import Trial


def trial(kl: float | None, seed: int = 0) -> Trial:
    return Trial(
        id=f"{kl} {seed}",
        loss="dpo",
        strength_name="beta",
        strength=None,
        hyperparameters={},
        seed=seed,
        status="failed" if kl is None else "done",
        error="",
        traceback="",
        row={"kl": kl},
        metrics={},
        read=lambda _name: None,
    )


def curve(index: int, *kls: float | None) -> LossCurve:
    settings = tuple(GridPoint(None, rank, (trial(kl),)) for rank, kl in enumerate(kls))
    return LossCurve(index, f"loss {index}", "dpo", "beta", settings)


def chosen(*series: LossCurve) -> tuple[float, list[float | None]]:
    found = matched_policies(series, "nothing was compared")
    return found.kl, [setting.mean("kl") for _, setting in found.settings]


def test_middle_is_that_of_the_roots_of_the_kls_that_all_cover() -> None:
    """From 1 to 16 and from 4 to 64 nats: 4 to 16 in common, and sqrt(KL) = 3 in its middle."""
    kl, nearest = chosen(curve(0, 1.0, 16.0), curve(1, 4.0, 64.0))
    assert kl == pytest.approx(9.0)
    assert nearest == [16.0, 4.0]


def test_without_kls_in_common_it_is_the_middle_of_all() -> None:
    """From 1 to 4 and from 25 to 81 nats: sqrt(KL) = 5 in the middle of 1 to 9."""
    kl, nearest = chosen(curve(0, 1.0, 4.0), curve(1, 25.0, 81.0))
    assert kl == pytest.approx(25.0)
    assert nearest == [4.0, 25.0]


def test_nearest_is_so_on_the_scale_of_the_axis() -> None:
    """At 16 nats, sqrt(KL) = 4: 25.5 nats is 1.05 away and 8 nats 1.17."""
    kl, nearest = chosen(curve(0, 0.0, 8.0, 25.5, 64.0))
    assert kl == pytest.approx(16.0)
    assert nearest == [25.5]


def test_policies_that_failed_stand_for_nobody() -> None:
    found = matched_policies([curve(0, None, 4.0), curve(1, None)], "nothing was compared")
    assert [one.index for one, _ in found.settings] == [0]
    assert found.compared == {0}
    assert found.kl == pytest.approx(4.0)
    assert matched_policies([curve(0, None)], "nothing").kl == 0.0


def test_players_are_those_that_cover_the_kl_by_their_first_seed() -> None:
    both = GridPoint(0.1, 0, (trial(4.0, seed=0), trial(4.0, seed=1)))
    first, second = (
        LossCurve(index, f"loss {index}", "dpo", "beta", (both,)) for index in range(2)
    )
    found = MatchedPolicies(4.0, ((first, both), (second, both)), frozenset({1}))
    assert [(one.index, player.seed) for one, player in found.players] == [(1, 0)]
    assert found.title == "each loss nearest to KL 4.00"
    assert found.whose == (
        "of each loss that covers it the policy whose KL is nearest to 4.00 nats (1 do not)"
    )
    everyone = MatchedPolicies(4.0, found.settings, frozenset({0, 1}))
    assert everyone.whose == "of each loss the policy whose KL is nearest to 4.00 nats"
