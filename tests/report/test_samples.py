"""Prompts are picked by position; policies by selections that say what they are."""

from __future__ import annotations

import pytest

from dpo_bench.analysis.kl_axis import position
from dpo_bench.report import samples
from dpo_bench.report.samples import ALL, BEST, MATCHED, PromptCards, Selection, few_samples
from tests.report.conftest import ViewOf


def selection(view_of: ViewOf, name: str, key: str = MATCHED) -> Selection:
    return next(one for one in view_of(name).selections if one.key == key)


def shown(view_of: ViewOf, name: str, key: str = ALL) -> tuple[PromptCards, ...]:
    return few_samples(view_of(name).results, selection(view_of, name, key))


def test_prompts_are_evenly_spaced_whatever_they_say(view_of: ViewOf) -> None:
    table = view_of("clean").results.reference.prompts
    places = [0, 85, 170]
    found = shown(view_of, "clean")
    assert [one.place for one in found] == [place + 1 for place in places]
    assert [one.prompt for one in found] == [table["prompt"][i] for i in places]


def test_cards_hold_the_stored_responses_and_figures(view_of: ViewOf) -> None:
    view, first = view_of("clean"), shown(view_of, "clean")[0].cards
    assert [card.title for card in first[:2]] == ["dataset's chosen", "reference"]
    trial = view.results.done[0]
    row = trial.samples.query("prompt_id == 'p0000' and sample == 0").iloc[0]
    card = next(card for card in first if card.title == "dpo, beta 0.03")
    assert card.text == row["response"]
    assert f"reward {row['reward']:.3f}".replace("-", "\u2212") in card.facts
    assert f"beats {100 * row['win_reference']:.0f}% of the reference's" in card.facts


def test_every_selection_shows_each_loss(view_of: ViewOf) -> None:
    assert len(selection(view_of, "clean", ALL).policies) == 19
    for key in (MATCHED, BEST):
        policies = selection(view_of, "clean", key).policies
        assert [one.index for one, _ in policies] == [0, 1, 2, 3]
        cards = shown(view_of, "clean", key)[0].cards
        assert [card.series for card in cards] == [None, None, 0, 1, 2, 3]
    assert len(selection(view_of, "clean", "series-1").policies) == 4


def test_the_default_selection_is_at_matched_kl(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert view.selections[0].key == MATCHED
    target = view.policies.kl
    for one, trial in view.selections[0].policies:
        distances = {
            setting.strength: abs(position(setting.mean("kl") or 0) - position(target))
            for setting in one.settings
            if setting.done
        }
        assert trial.strength == min(distances, key=lambda key: distances[key])


def test_no_finished_trial_no_responses(view_of: ViewOf) -> None:
    assert view_of("all_failed").selections == ()


def test_long_texts_are_cut_until_the_budget_holds(
    view_of: ViewOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = max(len(card.text) for one in shown(view_of, "hostile") for card in one.cards)
    assert whole == 400
    monkeypatch.setattr(samples, "BUDGET", 1)
    for one in shown(view_of, "hostile"):
        assert max(len(card.text) for card in one.cards) <= 300


def test_several_seeds_are_told_apart_and_compared_by_the_first(view_of: ViewOf) -> None:
    every = [card.title for card in shown(view_of, "two_seeds")[0].cards]
    assert {"dpo, beta 0.03, seed 0", "dpo, beta 0.03, seed 1"} <= set(every)
    matched = [card.title for card in shown(view_of, "two_seeds", MATCHED)[0].cards]
    assert not any(title.endswith("seed 1") for title in matched)
