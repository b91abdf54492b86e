"""Controls and diagnostics are shown with what they mean; a judge gives no rewards."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpo_bench.analysis.metrics import headline
from dpo_bench.report.configuration import read_experiment
from dpo_bench.report.sections.methods import appendix
from dpo_bench.report.sections.sanity_checks import controls_section, missed_controls
from tests.report.conftest import ViewOf
from tests.report.judged import judged
from tests.report.sections.test_setup import setup_of, with_settings

CONTROLS = {
    "self": {"value": 0.5, "low": 0.5, "high": 0.5, "n": 32, "expected": "exactly .5"},
    "null": {"value": 0.1, "low": 0.05, "high": 0.2, "n": 32, "expected": "low", "passed": None},
}


def test_controls_are_shown_with_interval_expectation_and_verdict(view_of: ViewOf) -> None:
    results = view_of("clean").results
    assert controls_section(results) is None
    reference = dataclasses.replace(results.reference, controls=CONTROLS)
    found = controls_section(dataclasses.replace(results, reference=reference))
    assert found is not None
    rows: list[tuple[Any, ...]] = [
        tuple(cell.text for cell in row.cells) for row in found.table.rows
    ]
    assert rows[1] == ("Null response", "0.100", "low", "no right outcome")
    assert found.table.rows[1].cells[1].detail == "[0.050, 0.200], n = 32"


def test_a_missed_control_is_a_warning(view_of: ViewOf) -> None:
    (warning,) = missed_controls(judged(view_of("no_reward")))
    assert "'self against self' gave 0.500 where exactly .5 is right" in warning
    assert list(missed_controls(view_of("clean").results)) == []


def test_a_reward_that_does_not_read_responses_is_a_warning(view_of: ViewOf) -> None:
    results = view_of("clean").results
    missed = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 32, "expected": "above 0"}
    controls = {**CONTROLS, "responses": missed | {"passed": False}}
    reference = dataclasses.replace(results.reference, controls=controls)
    (warning,) = missed_controls(dataclasses.replace(results, reference=reference))
    assert "'dependence on the response' gave 0.000 where above 0 is right" in warning
    assert "(share of prompts at which the reward depends on the response)" in warning


def test_a_judge_that_follows_the_place_is_said_with_its_interval(view_of: ViewOf) -> None:
    results = judged(view_of("no_reward"))
    order = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 32, "expected": "at least 0.6"}
    place = {"value": 0.875, "low": 0.8, "high": 0.95, "n": 32, "expected": "near .5"}

    def said(passed: bool) -> list[str]:
        controls = {"order": order | {"passed": passed}, "place": place | {"passed": None}}
        reference = dataclasses.replace(results.reference, controls=controls)
        return list(missed_controls(dataclasses.replace(results, reference=reference)))

    (warning,) = said(passed=False)
    assert warning.startswith("The judge follows the place, not the text: ")
    assert "agree on 0.250 [0.100, 0.400]" in warning
    assert "preferred in 0.875" in warning
    assert said(passed=True) == []


def test_a_judge_has_win_rates_but_no_reward(view_of: ViewOf) -> None:
    results = judged(view_of("no_reward"))
    assert not results.has_reward
    assert [one.name for one in headline(results)] == ["win_rate"]
    found = controls_section(results)
    assert found is not None
    assert found.table.rows[0].cells[3].text == "missed"
    text = appendix(results, read_experiment(results), view_of("no_reward").series, "")[1]
    assert "The judge small compared each response with 2 of the reference's" in text


def test_settings_of_another_kind_of_reward_are_not_listed(view_of: ViewOf) -> None:
    view = view_of("clean")
    options = {"evaluation__judge_retries": 6, "evaluation__reward_label": "good"}
    for reward, shown in (
        ("vader", set()),
        ("judge:small", {"evaluation.judge_retries"}),
        ("sentiment:folder", {"evaluation.reward_label"}),
        ("module:function", set()),
    ):
        results = with_settings(view, evaluation__reward=reward, **options)
        keys = {one.key for one in setup_of(results, view).settings}
        assert keys & {"evaluation.judge_retries", "evaluation.reward_label"} == shown
        assert "evaluation.reward" in keys


def test_a_reference_that_follows_the_policy_is_said(view_of: ViewOf) -> None:
    view = view_of("clean")
    results = with_settings(
        view, training__reference_sync_steps=20, training__reference_sync_rate=0.6
    )
    fixed = dict(setup_of(results, view).fixed)
    assert fixed["Reference while training"] == (
        "follows the policy every 20 steps, share 0.6 (TR-DPO)"
    )
    assert (
        "every 20 steps"
        in appendix(results, read_experiment(results), view.series, view.comparison)[0]
    )
    assert "Reference while training" not in dict(view.setup.fixed)


def test_an_adapter_is_said_in_setup_settings_and_methods(view_of: ViewOf) -> None:
    view = view_of("clean")
    lora = {"rank": 8, "alpha": 16.0, "rslora": False, "target_modules": ["q_proj", "v_proj"]}
    results = with_settings(view, training__lora=lora)
    setup = setup_of(results, view)
    words = "a LoRA adapter of rank 8, alpha 16 (scaled by alpha / rank), on q_proj, v_proj"
    assert dict(setup.fixed)["Trained weights"] == words
    settings = {one.key: one for one in setup.settings}
    assert settings["training.lora.rank"].value == "8"
    assert settings["training.lora.rank"].about
    assert words in appendix(results, read_experiment(results), view.series, view.comparison)[0]
    assert "LoRA" not in appendix(view.results, view.experiment, view.series, view.comparison)[0]
