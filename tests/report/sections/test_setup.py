"""Varied, tuned and fixed come from the experiment; caveats follow from them."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.configuration import read_experiment
from dpo_bench.report.sections.methods import appendix, method_notes
from dpo_bench.report.sections.setup import Setup, describe_setup
from dpo_bench.report.view import ReportView
from tests.report.conftest import ViewOf


def with_settings(view: ReportView, **changes: Any) -> SweepResults:
    """The results with changed keys, ``section__key`` or ``key``."""
    experiment = {
        k: dict(v) if isinstance(v, dict) else v for k, v in view.results.experiment.items()
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            experiment[section][key] = value
        else:
            experiment[section] = value
    return dataclasses.replace(view.results, experiment=experiment)


def setup_of(results: SweepResults, view: ReportView) -> Setup:
    """The setup of changed results with the view's curves."""
    return describe_setup(results, read_experiment(results), view.series)


def test_the_loss_is_varied_and_its_strength_tuned(view_of: ViewOf) -> None:
    setup = view_of("clean").setup
    assert setup.varied == (("4 losses", "dpo, cdpo, hinge and ipo"),)
    assert setup.tuned == (
        ("beta of dpo, cdpo and hinge", "0.03, 0.1, 0.3, 1, 3"),
        ("beta of ipo", "0.1, 0.3, 1, 3, 10"),
    )
    assert ("Training seeds", "0") in setup.fixed


def test_several_seeds_and_variants_are_varied(view_of: ViewOf) -> None:
    varied = dict(view_of("two_seeds").setup.varied)
    assert varied["Training seeds"] == "0, 1"
    assert "cdpo (label_smoothing 0.3)" in varied["Variants"]
    assert "Training seeds" not in dict(view_of("two_seeds").setup.fixed)


def test_every_fixed_setting_is_listed_with_its_meaning(view_of: ViewOf) -> None:
    view = view_of("clean")
    settings = {one.key: one for one in view.setup.settings}
    assert settings["training.learning_rate"].value == "0.001"
    assert settings["training.learning_rate"].about.startswith("peak learning rate")
    assert settings["training.epochs"].value == "not set"
    assert settings["evaluation.rows_per_batch"].about.endswith("cannot change a result")
    assert not {"name", "losses", "training.seeds"} & set(settings)
    recorded = {
        f"{section}.{key}" if key else section
        for section, value in view.results.experiment.items()
        for key in (value if isinstance(value, dict) else [""])
    }
    idle = {one for one in recorded if one.startswith(("evaluation.judge_", "evaluation.reward_"))}
    assert set(settings) == recorded - idle - {"name", "losses", "training.seeds"}
    assert list(settings) == sorted(settings)


def test_the_world_is_no_condition_of_a_sweep_without_it(view_of: ViewOf) -> None:
    view = view_of("clean")
    results = with_settings(view, policy="folder", preferences="pairs.jsonl")
    keys = [one.key for one in setup_of(results, view).settings]
    assert any(one.key.startswith("world.") for one in view.setup.settings)
    assert not any(key.startswith("world.") for key in keys)


def test_caveats(view_of: ViewOf) -> None:
    text = " ".join(view_of("clean").setup.caveats)
    assert "tuned for no loss" in text
    assert "One training seed (0): the variance between seeds is unknown" in text
    assert "Truncated to the token limits: 3 responses of the data." in text
    assert "Left out of the data: 2 rows (identical pair: 2)." in text


def test_what_intervals_hold_depends_on_the_seeds(view_of: ViewOf) -> None:
    one, two = view_of("clean"), view_of("two_seeds")
    for view, expected, other in (
        (one, "variance between seeds is unknown", "responses and runs"),
        (two, "hold the spread over prompts, responses and runs", "unknown"),
    ):
        paragraph = appendix(view.results, view.experiment, view.series, view.comparison)[1]
        for text in (" ".join(view.setup.caveats), dict(view.notes)["Intervals"], paragraph):
            assert expected in text
            assert other not in text
    assert "Run-to-run variance is estimated over all" in dict(two.notes)["Verdicts"]
    assert "speaks of the policies at hand" in dict(one.notes)["Verdicts"]


def test_clean_data_has_no_caveat(view_of: ViewOf) -> None:
    view = view_of("clean")
    results = dataclasses.replace(view.results, counts={"training_pairs": 10, "dropped": {}})
    text = " ".join(setup_of(results, view).caveats)
    assert "Truncated" not in text
    assert "Left out" not in text


def test_a_server_that_sampled_is_said_wherever_seeds_are(view_of: ViewOf) -> None:
    view = view_of("clean")
    own = dict(method_notes(view.results, view.experiment, view.curves))["Shared conditions"]
    assert "same sampling seeds" in own
    assert "server" not in " ".join(setup_of(view.results, view).caveats)
    results = with_settings(
        view,
        evaluation__sampler="openai",
        evaluation__sampler_url="http://a/v1",
        training__lora={"rank": 2},
    )
    assert "sampled by a server" in " ".join(setup_of(results, view).caveats)
    experiment = read_experiment(results)
    shared = dict(method_notes(results, experiment, view.curves))["Shared conditions"]
    assert "sampled by a server" in shared
    assert "sampling seeds" not in shared
    told = appendix(results, experiment, view.series, view.comparison)[1]
    assert "sampled by a server" in told
    assert "sampling seeds" not in told


def test_as_many_opponents_are_named_as_were_taken(view_of: ViewOf) -> None:
    view = view_of("two_seeds")  # 16 of each prompt
    results = with_settings(
        view, evaluation__reference_samples=64, evaluation__reference_precision=0.1
    )
    experiment = read_experiment(results)
    notes = " ".join(dict(method_notes(results, experiment, view.curves)).values())
    told = appendix(results, experiment, view.series, view.comparison)[1]
    assert "all 16 reference responses" in notes
    assert "16 reference responses" in told
    assert "64 reference" not in notes + told


def test_another_temperature_is_said_in_caveat_and_methods(view_of: ViewOf) -> None:
    view = view_of("clean")
    results = with_settings(view, evaluation__temperature=0.7)
    assert "temperature other than 1" in " ".join(setup_of(results, view).caveats)
    assert (
        "sampled at temperature 0.7"
        in dict(method_notes(results, read_experiment(results), view.curves))["KL to the reference"]
    )


def test_epochs_stand_where_steps_are_not_set(view_of: ViewOf) -> None:
    view = view_of("clean")
    results = with_settings(view, training__steps=None, training__epochs=2.0)
    assert dict(setup_of(results, view).fixed)["Length"] == "2 epochs, 32 pairs per step"


def test_methods_say_what_a_reader_must_know(view_of: ViewOf) -> None:
    notes = dict(view_of("clean").notes)
    for words in (
        "KL(policy || reference), in nats per response",
        "Rao-Blackwellised",
        "temperature 1",
    ):
        assert words in notes["KL to the reference"]
    assert (
        "all 64 reference responses to the same prompt; a win counts 1, a tie a half"
        in notes["Reward and win rate"]
    )
    assert "95% interval from a bootstrap over prompts (400 resamples" in notes["Intervals"]
    assert "drawn to KL 2.96 nats (at most ln 64 - 1.2)" in notes["Optimal frontier"]
    assert "same sampling seeds" in notes["Shared conditions"]
    assert (
        "after a smooth curve that all losses have in common" in notes["Comparison at matched KL"]
    )
    assert "the largest |t| when no two losses differ" in notes["Verdicts"]


def test_without_reward_the_methods_say_what_is_left_out(view_of: ViewOf) -> None:
    notes = dict(view_of("no_reward").notes)
    assert "not measured" in notes["No reward"]
    assert not {
        "Reward and win rate",
        "Optimal frontier",
        "Best of n",
        "Comparison at matched KL",
    } & set(notes)


def test_what_a_seed_varies_is_said(view_of: ViewOf) -> None:
    view = view_of("two_seeds")
    order_only = " ".join(view.setup.caveats)
    assert "A seed varies the order of the pairs, not which pairs" in order_only
    assert "What a training seed varies" not in dict(view.setup.fixed)
    results = with_settings(view, training__resample="bootstrap")
    setup = setup_of(results, view)
    assert "and which of them are trained on" in " ".join(setup.caveats)
    assert "drawn with replacement" in dict(setup.fixed)["What a training seed varies"]
    assert "A seed varies" not in " ".join(view_of("clean").setup.caveats), "there is one"
