"""The summary says what the figures say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest

from dpo_bench.analysis.results import Trial
from dpo_bench.report.sections import opening
from dpo_bench.report.sections.summary import find
from dpo_bench.report.view import ReportView, build_view
from dpo_bench.wording import number
from tests.report.conftest import ViewOf
from tests.report.judged import judged


def summary(view: ReportView) -> str:
    return " ".join(view.findings.sentences)


def changed(view: ReportView, change: Callable[[Trial], Trial]) -> ReportView:
    """The view with every trial replaced, findings made anew."""
    trials = tuple(change(trial) for trial in view.results.trials)
    results = dataclasses.replace(view.results, trials=trials)
    findings = find(results, view.experiment, view.series, view.comparison)
    return dataclasses.replace(view, results=results, findings=findings)


def with_row(name: str, value: float) -> Callable[[Trial], Trial]:
    def change(trial: Trial) -> Trial:
        return dataclasses.replace(trial, row={**trial.row, name: value})

    return change


def test_four_sentences_answer_four_questions(view_of: ViewOf) -> None:
    better, again, train, unseen = view_of("two_seeds").findings.sentences
    assert better.startswith("Better than dpo? At the same KL (")
    assert again.startswith("Would one see it again? ")
    assert train.startswith("Which to train? ")
    assert unseen.startswith("What could this not have seen? Differences under about ")


def test_one_seed_says_nothing_of_losses(view_of: ViewOf) -> None:
    better, again, _, unseen = view_of("clean").findings.sentences
    assert "Of the policies at hand" in better
    assert "ipo is worse by at least" in better
    assert "this speaks of policies, not of losses." in again
    assert "Any difference between losses: for that it takes a second seed." in unseen


def test_counts_and_failures_are_said_as_well(view_of: ViewOf) -> None:
    also = view_of("clean").findings.also
    assert "4 losses in 20 trials: 19 finished, 1 failed (the cause is below)." in also
    assert any(
        "4 losses (5 variants) in 50 trials" in one for one in view_of("two_seeds").findings.also
    )


def test_the_sentences_repeat_the_comparison(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert not isinstance(view.comparison, str)
    worst = max(
        (one for one in view.comparison.of(3) if one.policies == "worse"),
        key=lambda one: one.at_least,
    )
    ends = (
        f"{number(worst.at_least)} and at most {number(worst.at_most)} (95%, at KL {worst.kl:.2f}"
    )
    assert f"ipo is worse by at least {ends}" in view.findings.sentences[0]


def test_the_setting_to_train_is_not_the_highest_trial(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert view.best is not None
    (train,) = (one for one in view.findings.sentences if one.startswith("Which to train?"))
    assert number(view.best.expected.value) in train
    assert "on one half of the prompts and measured on the other half." in train
    assert view.best.expected.n == 128


def test_nothing_decided_is_nothing_to_see_again(view_of: ViewOf) -> None:
    text = view_of("two_seeds").findings.sentences[1]
    assert ("Nothing was decided" in text) == (
        "is better" not in summary(view_of("two_seeds"))
        and "is worse" not in summary(view_of("two_seeds"))
    )


def test_a_judge_that_follows_the_place_crowns_nobody(view_of: ViewOf) -> None:
    view = view_of("clean")
    results = judged(view)
    order = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 32, "expected": "at least 0.6"}

    def told(passed: bool) -> tuple[str, dict[str, str]]:
        controls = {"order": order | {"passed": passed}}
        reference = dataclasses.replace(results.reference, controls=controls)
        changed = dataclasses.replace(results, reference=reference)
        found = find(changed, view.experiment, view.series, view.comparison)
        return " ".join(found.sentences), {tile.title: tile.figure for tile in found.tiles}

    text, tiles = told(passed=False)
    assert "both orders agree on 0.250 [0.100, 0.400] of the controlled pairs" in text
    assert not any(word in text for word in ("Better", "train", "above"))
    assert tiles["The judge's orders agree"] == "0.250"
    assert not tiles.keys() & {"Highest, at any KL", "Better than dpo"}
    text, tiles = told(passed=True)
    assert "Better than dpo?" in text
    assert "Better than dpo" in tiles


def test_where_all_are_ties_nobody_is_best(view_of: ViewOf) -> None:
    ties = dict.fromkeys(("win_rate", "win_rate_low", "win_rate_high"), 0.5)

    def tied(trial: Trial) -> Trial:
        return dataclasses.replace(trial, row={**trial.row, **ties})

    view = changed(view_of("clean"), tied)
    assert "Every comparison is a tie, so that every win rate is 0.500" in summary(view)
    assert "Better than" not in summary(view)


def test_without_reward_nothing_is_compared(view_of: ViewOf) -> None:
    text = summary(view_of("no_reward"))
    assert "Without a reward of each response there is nothing to compare" in text
    assert "same KL" not in text


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("all_failed", "all failed, so that there is nothing to compare"),
        ("single", "1 loss in 1 trial: all finished"),
        ("untrained", "3 planned trials have not run yet: this report is partial"),
    ],
)
def test_unusual_sweeps(view_of: ViewOf, variant: str, words: str) -> None:
    found = view_of(variant).findings
    assert any(words in one for one in (*found.sentences, *found.also))


def test_the_share_of_the_attainable_gain(view_of: ViewOf) -> None:
    results = view_of("clean").results
    reference = results.reference.reward.value or 0
    shares = []
    for trial in results.done:
        gap, reward = trial.value("frontier_gap"), trial.row["reward"]
        if gap is not None:
            shares.append((reward - reference) / (reward + gap - reference))
    expected = f"reach {100 * min(shares):.0f}% to {100 * max(shares):.0f}% of the gain"
    assert any(expected in sentence for sentence in view_of("clean").findings.also)


def test_displacement_counts_only_intervals_below_zero(view_of: ViewOf) -> None:
    view = view_of("clean")
    fallen = [trial for trial in view.results.done if trial.row["chosen_logratio_high"] < 0]
    assert any(f"In {len(fallen)} of 19 trials" in sentence for sentence in view.findings.also)
    raised = changed(view, with_row("chosen_logratio_high", 0.1))
    assert not any("less likely" in sentence for sentence in raised.findings.also)


def test_a_sound_sweep_has_no_warning(view_of: ViewOf) -> None:
    assert view_of("clean").findings.warnings == ()


def test_a_wrong_loss_at_step_zero_is_a_warning(view_of: ViewOf) -> None:
    warnings = changed(view_of("clean"), with_row("initial_loss", 0.6942)).findings.warnings
    assert len(warnings) == 19
    assert "dpo, beta 0.03: the loss at step 0 is 0.6942" in warnings[0]


def test_rounding_that_a_large_strength_multiplies_is_no_wrong_loss(view_of: ViewOf) -> None:
    """Robust DPO at beta 197 begins 1.1e-5 off; at beta .03 the same is a fault."""
    expected = view_of("clean").results.done[0].row["initial_loss_expected"]
    off = changed(view_of("clean"), with_row("initial_loss", expected + 1.1e-5)).results
    largest = max(one.strength or 0.0 for one in off.trials if one.loss == "dpo")

    def stronger(trial: Trial) -> Trial:
        is_one = trial.loss == "dpo" and trial.strength == largest
        return dataclasses.replace(trial, strength=197.0) if is_one else trial

    trials = tuple(stronger(one) for one in off.trials)
    warnings = build_view(dataclasses.replace(off, trials=trials)).findings.warnings
    assert any("dpo, beta 0.03: the loss at step 0" in one for one in warnings)
    assert not any("dpo, beta 197: the loss at step 0" in one for one in warnings)


def test_a_policy_above_the_frontier_is_a_warning(view_of: ViewOf) -> None:
    view = view_of("clean")
    known = [trial for trial in view.results.done if trial.value("frontier_gap") is not None]
    warnings = changed(view, with_row("frontier_gap_high", -0.01)).findings.warnings
    assert ["above the optimal frontier" in warning for warning in warnings] == [True] * len(known)


def test_pairs_where_a_formula_is_continued_are_a_warning(view_of: ViewOf) -> None:
    """One sentence per loss, however few the pairs were; none of a loss with none."""
    shares = {0.03: 0.0, 0.1: 0.0002, 0.3: 0.1}

    def continued(trial: Trial) -> Trial:
        copy = dataclasses.replace(trial)
        share = {"dpo": shares.get(float(trial.strength or 0), 0.0), "ipo": 0.0}.get(trial.loss)
        if share is not None:
            table = trial.training_log.assign(continued=0.0)
            table.loc[table.index[-1], "continued"] = share * len(table)  # all in the last step
            copy.__dict__["training_log"] = table
        return copy

    (warning,) = changed(view_of("clean"), continued).findings.warnings
    assert warning.startswith("In 2 trials of dpo there were training pairs where its formula")
    assert "most with dpo, beta 0.3 (10.0% of the pairs that were seen)" in warning
    shares[0.3] = 0.0
    (warning,) = changed(view_of("clean"), continued).findings.warnings
    assert warning.startswith("In 1 trial of dpo ")
    assert "most with dpo, beta 0.1 (less than 0.1% of" in warning


def test_responses_cut_at_the_limit_are_a_warning(view_of: ViewOf) -> None:
    def cut(trial: Trial) -> Trial:
        copy = dataclasses.replace(trial)
        copy.__dict__["samples"] = trial.samples.assign(finished=False)
        return copy

    (warning,) = changed(view_of("single"), cut).findings.warnings
    assert "more than 10% of the responses were cut" in warning
    assert "(100%)" in warning


def test_tiles_repeat_the_summary(view_of: ViewOf) -> None:
    view = view_of("clean")
    tiles = {tile.title: tile for tile in view.findings.tiles}
    assert view.best is not None
    assert number(view.best.expected.value) in tiles["Highest, at any KL"].detail
    assert tiles["Trials"].figure == "19 of 20"
    assert tiles["Better than dpo"].figure.endswith("of 3")
    assert tiles["KL covered"].detail == "nats, to the reference"


def test_a_long_list_of_losses_is_counted_instead(
    view_of: ViewOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of("two_seeds")
    monkeypatch.setattr(opening, "_NAMED", 1)
    found = find(view.results, view.experiment, view.series, view.comparison)
    assert re.search(r"and [23] more|[123] more likewise", found.sentences[0])
