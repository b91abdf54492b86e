"""Prompts are picked by position; policies by selections that say what they are."""

from __future__ import annotations

import pytest

from dpo_bench.analysis.kl_axis import position
from dpo_bench.report import samples
from dpo_bench.report.samples import ALL, BEST, MATCHED, SampleBrowser, sample_browser
from tests.report.conftest import ViewOf


def browser_of(view_of: ViewOf, name: str) -> SampleBrowser:
    browser = view_of(name).browser
    assert browser is not None
    return browser


def test_prompts_are_evenly_spaced_whatever_they_say(view_of: ViewOf) -> None:
    clean = browser_of(view_of, "clean")
    table = view_of("clean").results.reference.prompts
    places = [256 * i // 12 for i in range(12)]
    assert [one.prompt for one in clean.prompts] == [table["prompt"][i] for i in places]
    assert clean.total == 256


def test_cards_hold_the_stored_responses_and_figures(view_of: ViewOf) -> None:
    view, browser = view_of("clean"), browser_of(view_of, "clean")
    first = browser.prompts[0].cards
    assert [card.title for card in first[:2]] == ["dataset's chosen", "reference"]
    trial = view.results.done[0]
    row = trial.samples.query("prompt_id == 'p0000' and sample == 0").iloc[0]
    card = next(card for card in first if card.title == "dpo, beta 0.03")
    assert card.text == row["response"]
    assert f"reward {row['reward']:.3f}".replace("-", "\u2212") in card.facts
    assert f"beats {100 * row['win_reference']:.0f}% of the reference's" in card.facts


def test_every_selection_shows_each_loss(view_of: ViewOf) -> None:
    cards = [card for card in browser_of(view_of, "clean").prompts[0].cards if card.views]
    assert len([card for card in cards if ALL in card.views]) == 19
    for view in (MATCHED, BEST):
        assert sorted(card.series or 0 for card in cards if view in card.views) == [0, 1, 2, 3]
    assert len([card for card in cards if "series-1" in card.views]) == 4


def test_the_default_selection_is_at_matched_kl(view_of: ViewOf) -> None:
    view, browser = view_of("clean"), browser_of(view_of, "clean")
    assert browser.views[0][0] == MATCHED
    target = view.policies.kl
    for one in view.series:
        distances = {
            setting.strength: abs(position(setting.mean("kl") or 0) - position(target))
            for setting in one.settings
            if setting.done
        }
        shown = next(
            c for c in browser.prompts[0].cards if c.series == one.index and MATCHED in c.views
        )
        assert shown.title.endswith(f"beta {min(distances, key=lambda key: distances[key]):g}")


def test_no_finished_trial_no_responses(view_of: ViewOf) -> None:
    assert view_of("all_failed").browser is None


def test_long_texts_are_cut_and_fewer_prompts_shown(
    view_of: ViewOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of("hostile")
    monkeypatch.setattr(samples, "BUDGET", 60_000)
    browser = sample_browser(view.results, view.series, view.policies)
    assert browser is not None
    assert len(browser.prompts) < 12
    size = sum(len(card.text) + 420 for one in browser.prompts for card in one.cards)
    assert size <= 60_000


def test_the_budget_never_leaves_nothing(view_of: ViewOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "BUDGET", 1)
    view = view_of("hostile")
    browser = sample_browser(view.results, view.series, view.policies)
    assert browser is not None
    assert len(browser.prompts) == 1
    assert max(len(card.text) for card in browser.prompts[0].cards) <= 300


def test_several_seeds_show_the_first(view_of: ViewOf) -> None:
    titles = [card.title for card in browser_of(view_of, "two_seeds").prompts[0].cards]
    assert "dpo, beta 0.03, seed 0" in titles
    assert "dpo, beta 0.03, seed 1" not in titles
