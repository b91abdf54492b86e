"""The world of the claims is exact, and the claims come out as reported."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from dpo_bench.reproduce.claims import claims, world
from dpo_bench.reproduce.claims.world import (
    WORLDS,
    Candidate,
    make_worlds,
    measure,
    optimal_rewards,
    train,
)
from tests.reproduce.conftest import Run

REPORT = Path(__file__).parents[2] / "reports" / "claims" / "claims.csv"


def test_labels_change_and_nothing_else() -> None:
    plain, flipped, proxied = make_worlds(), make_worlds(flips=0.4), make_worlds(proxy=True)
    for other in (flipped, proxied):
        assert torch.equal(plain.gold, other.gold)
        assert torch.equal(plain.reference, other.reference)
        pairs = [torch.stack([one.chosen, one.rejected]).sort(0).values for one in (plain, other)]
        assert torch.equal(*pairs)
    share = (plain.chosen != flipped.chosen).double().mean()
    assert float(share) == pytest.approx(0.4, abs=0.04)


def test_deterministic_labels_follow_gold() -> None:
    worlds = make_worlds(noisy=False)
    chosen, rejected = (worlds.at(worlds.gold, one) for one in (worlds.chosen, worlds.rejected))
    assert bool((chosen >= rejected).all())


def test_measures_by_enumeration() -> None:
    worlds = make_worlds()
    policy = (worlds.reference + 0.5 * worlds.gold).log_softmax(-1)
    found = measure(worlds, policy)
    p, q, gold = policy[1].exp(), worlds.reference[1].exp(), worlds.gold[1]
    win = sum(
        float(p[x, i] * q[x, j]) * (1.0 if gold[x, i] > gold[x, j] else 0.5)
        for x in range(world.PROMPTS)
        for i in range(world.RESPONSES)
        for j in range(world.RESPONSES)
        if gold[x, i] >= gold[x, j]
    )
    assert float(found.win_rate[1]) == pytest.approx(win / world.PROMPTS, abs=1e-12)
    kl = (p * (p / q).log()).sum() / world.PROMPTS
    assert float(found.kl[1]) == pytest.approx(float(kl), abs=1e-12)


def test_the_optimal_policy_lies_on_the_frontier_and_others_below() -> None:
    worlds = make_worlds()
    best = measure(worlds, (worlds.reference + 2.0 * worlds.gold).log_softmax(-1))
    assert torch.allclose(optimal_rewards(worlds, best.kl), best.reward, atol=1e-9)
    other = measure(worlds, (worlds.reference + worlds.features[..., 0]).log_softmax(-1))
    assert bool((other.reward < optimal_rewards(worlds, other.kl) - 1e-3).all())


def test_a_short_training_shows_the_surest_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "STEPS", 60)
    worlds = make_worlds(flips=0.2, noisy=False)
    candidates = [
        Candidate("dpo", 0.5), Candidate("dpo", 3.0), Candidate("cdpo", 0.5, 0.2),
    ]  # fmt: skip
    strong, weak, careful = (measure(worlds, policy) for policy in train(worlds, candidates))
    assert bool((weak.kl < strong.kl).all())
    assert bool((careful.kl < strong.kl).all())
    for one in (strong, weak, careful):
        assert bool((one.reward <= optimal_rewards(worlds, one.kl) + 1e-9).all())


def test_signs_are_those_of_the_interval() -> None:
    above = torch.linspace(0.9, 1.1, WORLDS, dtype=torch.float64)
    assert claims.sign(claims.over_worlds(above)) == "holds"
    assert claims.sign(claims.over_worlds(-above)) == "fails"
    assert claims.sign(claims.over_worlds(above - 1)) == "tie"


def test_the_committed_outcomes_are_the_listed_ones() -> None:
    table = pd.read_csv(REPORT)
    outcomes = table[table["series"].str.startswith("CLAIM")]
    assert len(outcomes) == 11
    judged = outcomes.dropna(subset=["rerun"])
    assert len(judged) == 10
    assert (judged["reproduced"] == judged["rerun"]).all()


@pytest.mark.slow
def test_the_committed_report_is_what_a_run_gives(run: Run) -> None:
    table = pd.read_csv(REPORT)
    outcome = run("claims")
    assert not outcome.failed
    assert table["series"].tolist() == [row.series for row in outcome.rows]
    ours = [row.reproduced for row in outcome.rows if row.reproduced is not None]
    assert table["reproduced"].dropna().tolist() == pytest.approx(ours, abs=1e-3)


def test_every_claim_says_whose_result_it_is_held_against() -> None:
    table = pd.read_csv(REPORT)
    judged = table[table["series"].str.startswith("CLAIM") & table["ok"].notna()]
    assert len(judged) == 10
    assert judged["x"].str.startswith(f"{claims.RERUN}: ").all()
    assert judged["published"].isna().all()
    assert set(judged["provenance"]) == {"run"}
    report = REPORT.with_name("report.md").read_text(encoding="utf-8")
    assert f"held against {claims.RERUN}" in " ".join(report.split())
