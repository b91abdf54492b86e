"""The exact results: the published figures hold, and a wrong loss would be noticed."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from dpo_bench.reproduce.entries import exact_experiments
from dpo_bench.reproduce.exact import (
    ipo_figure_1,
    kl_estimators,
    noise_identities,
    out_of_preference,
    population_optima,
)
from dpo_bench.reproduce.record import PublishedRow, Reproduced
from dpo_bench.reproduce.tabular import (
    Setting,
    gradient,
    minimize,
    pair_logps,
    total_variation,
    train_by_adam,
)
from tests.reproduce.conftest import Run

NAMES = [experiment.name for experiment in exact_experiments()]


def rows_of(outcome: Reproduced, series: str) -> list[PublishedRow]:
    found = [row for row in outcome.rows if row.series.startswith(series)]
    assert found, series
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_verdict_holds(run: Run, name: str) -> None:
    outcome = run(name)
    assert not outcome.failed
    assert any(row.ok for row in outcome.rows)
    for row in outcome.rows:
        assert row.reproduced is not None
        assert math.isfinite(row.reproduced)
        assert row.provenance or row.published is None


# papers.md A1: digitised figures, as the issue lists them
FIGURE_1 = {
    "DPO tau 0.5": (0.642, 0.807, 0.958, 0.993, 0.998),
    "DPO tau 1": (0.620, 0.762, 0.912, 0.968, 0.988),
    "IPO tau 0.1": (0.642, 0.815, 0.948, 0.963, 0.963),
    "IPO tau 0.5": (0.550, 0.557, 0.562, 0.560, 0.562),
    "IPO tau 1": (0.448, 0.445, 0.450, 0.448, 0.450),
}


@pytest.mark.parametrize("series", FIGURE_1)
def test_ipo_figure_1_is_met_at_every_listed_point(run: Run, series: str) -> None:
    rows = [row for row in run("ipo-figure-1").rows if row.series == series]
    assert [row.x for row in rows] == [900, 1800, 4500, 9000, 18000]
    ours = [row.reproduced for row in rows]
    assert ours == pytest.approx(FIGURE_1[series], abs=0.015)


def test_the_point_that_cannot_be_read_stays_blank(run: Run) -> None:
    (row,) = (r for r in run("ipo-figure-1").rows if r.series == "DPO tau 0.1" and r.x == 900)
    assert row.published is None
    assert row.rerun == 0.661
    assert row.ok


def test_curves_pass_through_the_reproduced_rows(run: Run) -> None:
    outcome = run("ipo-figure-1")
    for curve in outcome.curves:
        at = dict(zip(curve.x, curve.y, strict=True))
        for row in outcome.rows:
            if row.series == curve.series:
                assert at[float(row.x)] == row.reproduced


def test_more_updates_than_the_figure_has_do_not_match_it() -> None:
    trained = train_by_adam(
        [Setting("dpo", 1.0)], ipo_figure_1.TOTAL_ORDER, updates=6_000, every=6_000, seeds=3
    )
    assert float(trained[-1, 0, :, 0].mean()) > 0.988 + 0.01


@pytest.mark.slow
def test_the_literal_reading_ends_at_one_and_publishes_nothing(run: Run) -> None:
    rows = run("ipo-figure-1-literal").rows
    assert all(row.published is None and row.ok is None for row in rows)
    ends = [row.reproduced for row in rows if row.series.startswith("DPO") and row.x == 18_000]
    assert ends == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize(
    ("series", "values"),
    [
        ("1 two actions, IPO", (0.993307, 0.731059, 0.622459)),
        ("2 D1, IPO pi(a)", (0.9644, 0.5627, 0.4484)),
        ("2 D1, IPO pi(b)", (0.0344, 0.2889, 0.3213)),
        ("2 D1, IPO pi(c)", (0.0012, 0.1483, 0.2302)),
        ("3 D2 (cycle), DPO", (1 / 3,) * 3),
        ("3 D2 (cycle), IPO", (1 / 3,) * 3),
        ("4 {(a,c),(b,c)}, IPO", (0.0034, 0.1554, 0.2327)),
        ("4 {(a,c),(b,c)}, DPO", (0.0, 0.0, 0.0011)),
        ("5 {(a,b),(b,a)} as printed, DPO", (1 / 3,) * 3),
        ("5 {(a,b),(b,a)} as printed, IPO", (1 / 3,) * 3),
    ],
)
def test_ipo_closed_forms_are_the_listed_ones(
    run: Run, series: str, values: tuple[float, ...]
) -> None:
    rows = rows_of(run("ipo-closed-forms"), series)
    assert [row.x for row in rows] == [0.1, 0.5, 1.0]
    assert [row.reproduced for row in rows] == pytest.approx(values, abs=5.1e-5)


@pytest.mark.parametrize("loss", population_optima.BETAS)
def test_another_loss_misses_the_population_optimum(loss: str) -> None:
    world, beta = population_optima.make_world(), 0.3
    closed = population_optima.CLOSED_FORMS[loss](world, beta)
    assert float(closed.sum()) == pytest.approx(1, abs=1e-14)
    wrong = population_optima.population_loss(world, "cdpo", beta)
    found = minimize(wrong, world.reference.log()).softmax(0)
    assert total_variation(found, closed) > 1e-2
    assert gradient(wrong, closed.log()).abs().max() > 1e-4


def test_ipo_tilts_by_the_chance_to_beat_the_behavior_policy() -> None:
    world = population_optima.make_world(3)
    by_hand = [
        sum(
            float(world.behavior[other]) / (1 + math.exp(world.reward[other] - world.reward[one]))
            for other in range(population_optima.ACTIONS)
        )
        for one in range(population_optima.ACTIONS)
    ]
    assert world.advantage.tolist() == pytest.approx(by_hand, abs=1e-12)


def test_the_stationary_margin_of_cdpo_is_4_621(run: Run) -> None:
    (row,) = (r for r in run("noise-identities").rows if r.x == "beta 0.3, e 0.2" and r.published)
    assert row.reproduced == pytest.approx(4.621, abs=5e-4)


def test_only_robust_dpo_is_unbiased_under_flips() -> None:
    margin = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)
    clean = softplus(-0.3 * margin)
    for loss, unbiased in (("robust_dpo", True), ("cdpo", False)):
        kept = noise_identities.of_margin(margin, loss, 0.3, 0.2)
        flipped = noise_identities.of_margin(-margin, loss, 0.3, 0.2)
        assert torch.allclose(0.8 * kept + 0.2 * flipped, clean, atol=1e-12) is unbiased


def test_the_markov_kl_is_that_of_all_its_sequences() -> None:
    generator = torch.Generator().manual_seed(5)
    tables = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
    policy, reference = (kl_estimators.MarkovModel(table) for table in tables)
    ours, theirs = policy.table.log_softmax(-1), reference.table.log_softmax(-1)
    total = 0.0
    steps = 3
    for code in range(3**steps):
        symbols = [code // 3**place % 3 for place in range(steps)]
        pairs = list(zip([0, *symbols], symbols, strict=False))
        p, q = (sum(float(table[pair]) for pair in pairs) for table in (ours, theirs))
        total += math.exp(p) * (p - q)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kl_estimators, "STEPS", steps)
        patch.setattr(kl_estimators, "SYMBOLS", 3)
        assert kl_estimators.exact_kl(policy, reference) == pytest.approx(total, abs=1e-12)


def test_rao_blackwellising_keeps_the_mean_and_shrinks_the_spread(run: Run) -> None:
    rows = {row.series: row.reproduced for row in run("kl-estimators").rows}
    smooth, plain = (rows[f"{name}, sd (nats)"] for name in ("Rao-Blackwellised", "Monte Carlo"))
    assert smooth is not None
    assert plain is not None
    assert smooth < plain / 4


def test_ranking_flips_at_the_listed_losses(run: Run) -> None:
    rows = rows_of(run("ranking-flip"), "loss at the flip")
    assert [row.reproduced for row in rows] == pytest.approx([0.474, 0.049], abs=5e-4)


def test_out_of_preference_claims_order_and_no_figure(run: Run) -> None:
    rows = run("out-of-preference").rows
    assert all(row.ok is None for row in rows if not row.series.startswith("order"))
    claimed = [row for row in rows if row.ok is not None]
    assert len(claimed) == 3


def test_the_learned_reward_is_where_the_likelihood_is_flat() -> None:
    data = out_of_preference.collect(20, torch.Generator().manual_seed(1))
    learned = out_of_preference.learn_reward(data)
    phi = out_of_preference.features(data.states)
    seeds, places = torch.arange(len(phi))[:, None], torch.arange(20)[None]
    gap = phi[seeds, places, data.winners] - phi[seeds, places, data.losers]
    lost = (-(gap * learned[:, None]).sum(-1)).sigmoid()
    score = (gap * lost[..., None]).mean(1).abs().amax(1)
    assert score.median() < 1e-9  # a seed without a maximum goes on walking


def test_pairs_are_taken_winner_first() -> None:
    policy = torch.tensor([[0.5, 0.3, 0.2]]).log()
    logps = pair_logps(policy, torch.full((3,), 1 / 3).log(), ((2, 0), (0, 1)))
    assert logps.policy_chosen.exp().tolist() == pytest.approx([0.2, 0.5])
    assert logps.policy_rejected.exp().tolist() == pytest.approx([0.5, 0.3])
    assert logps.reference_chosen.exp().tolist() == pytest.approx([1 / 3] * 2)
