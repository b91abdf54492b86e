"""Trials and their identities."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dpo_bench.contract import Loss
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment import (
    Content,
    Experiment,
    apply_setting,
    conditions,
    plan_trials,
    read_file,
    shipped,
    trial_id,
    validate,
)
from dpo_bench.experiment.config import Section, Training

KNOWN: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parent / "data" / "trial_ids.json").read_text(encoding="utf-8")
)
"""Identities of trials, with ``source of NAME`` for the digest of a loss's source, as they were
before keys carried marks: the first one of every shipped file, and one with each key changed."""
CONTENT = Content(policy="p", reference="r", data="d", reward="vader 1", device="cpu/fp32")


def experiment(**changes: Any) -> Experiment:
    base = {
        "name": "x",
        "policy": "world:reviews",
        "preferences": "world:reviews",
        "losses": [{"name": "dpo", "beta": [0.1, 1]}],
    }
    return Experiment.model_validate({**base, **changes})


def identity(settings: Experiment, content: Content = CONTENT) -> str:
    return trial_id(plan_trials(settings)[0], conditions(settings, content))


@pytest.fixture
def any_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Identities that do not move when the code of a loss does."""

    def source(loss: Loss) -> str:
        return f"source of {loss.name}"

    monkeypatch.setattr("dpo_bench.experiment.identity.source_digest", source)


def test_resampling_is_part_of_an_identity_only_where_it_is_on() -> None:
    usual = identity(experiment())
    assert identity(experiment(training={"resample": "none"})) == usual
    assert identity(experiment(training={"resample": "bootstrap"})) != usual
    shared = conditions(experiment(), CONTENT)
    assert "resample" not in shared["training"]


class LaterTraining(Training):
    new: int = 3


class LaterSection(Section):
    new: int = 3


class Later(Experiment):
    """An experiment of a later version: further keys, none of them marked."""

    training: LaterTraining = LaterTraining()
    further: LaterSection = LaterSection()
    new: int = 3


@pytest.mark.parametrize("path", [("new",), ("training", "new"), ("further", "new")])
def test_a_new_key_without_a_mark_counts(path: tuple[str, ...]) -> None:
    """Wherever it stands, its presence and its value are part of the identity."""
    tree = experiment().model_dump(exclude_unset=True)
    usual = identity(Later.model_validate(tree))
    assert usual != identity(experiment())
    changed: Any = 4
    for name in reversed(path):
        changed = {name: changed}
    assert identity(Later.model_validate(tree | changed)) != usual


@pytest.mark.usefixtures("any_source")
@pytest.mark.parametrize("name", KNOWN["files"])
def test_trials_of_shipped_files_keep_their_identity(name: str) -> None:
    tree = {"name": name} | read_file(shipped()[name])
    assert identity(validate(tree, name)) == KNOWN["files"][name]


@pytest.mark.usefixtures("any_source")
@pytest.mark.parametrize("change", KNOWN["keys"])
def test_a_key_changes_the_identity_as_it_ever_did(change: str) -> None:
    tree = experiment(losses=[{"name": "dpo", "beta": 0.1}]).model_dump(exclude_unset=True)
    if change:
        apply_setting(tree, change)
    assert identity(validate(tree, change)) == KNOWN["keys"][change]


def test_trials_are_losses_times_strengths_times_seeds() -> None:
    trials = plan_trials(
        experiment(
            losses=[{"name": "dpo", "beta": [0.1, 1]}, {"name": "ipo", "beta": 2}],
            training={"seeds": [3, 4]},
        )
    )
    assert [(trial.loss, trial.strength, trial.seed) for trial in trials] == [
        ("dpo", 0.1, 3),
        ("dpo", 0.1, 4),
        ("dpo", 1.0, 3),
        ("dpo", 1.0, 4),
        ("ipo", 2.0, 3),
        ("ipo", 2.0, 4),
    ]


def test_a_loss_without_strengths_takes_its_own_grid() -> None:
    from dpo_bench import get_loss

    trials = plan_trials(experiment(losses=[{"name": "ipo"}]))
    assert tuple(trial.strength for trial in trials) == get_loss("ipo").grid


def test_any_hyperparameter_can_be_swept() -> None:
    trials = plan_trials(
        experiment(losses=[{"name": "cdpo", "beta": 0.1, "label_smoothing": [0.1, 0.2]}])
    )
    assert [dict(trial.hyperparameters) for trial in trials] == [
        {"beta": 0.1, "label_smoothing": 0.1},
        {"beta": 0.1, "label_smoothing": 0.2},
    ]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([{"name": "dpoo"}], "unknown loss 'dpoo'.*did you mean 'dpo'"),
        ([{"name": "dpo", "beta": -0.1}], "beta = -0.1 is outside"),
        ([{"name": "dpo", "bata": 0.1}], "no hyperparameter 'bata'.*did you mean 'beta'"),
        ([{"name": "dpo", "beta": []}], "empty list"),
        ([{"name": "dpo", "beta": 0.1}, {"name": "sigmoid", "beta": 0.1}], "asked for twice"),
    ],
)
def test_wrong_losses_are_refused(losses: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan_trials(experiment(losses=losses))


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"learning_rate": 2e-6}},
        {"training": {"steps": 7}},
        {"training": {"seeds": [1]}},
        {"evaluation": {"prompts": 3}},
        {"evaluation": {"seed": 3}},
        {"losses": [{"name": "dpo", "beta": [0.2]}]},
        {"losses": [{"name": "hinge", "beta": [0.1]}]},
        {"keep_policies": True},
        {"training": {"lora": {}}},
    ],
)
def test_the_identity_covers_what_changes_the_result(changes: dict[str, Any]) -> None:
    assert identity(experiment(**changes)) != identity(experiment())


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Content)])
def test_the_identity_covers_all_content(field: str) -> None:
    changed = dataclasses.replace(CONTENT, **{field: "other"})
    assert identity(experiment(), changed) != identity(experiment())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "y"},
        {"policy": "elsewhere"},
        {"preferences": "moved.jsonl"},
        {"losses": [{"name": "sigmoid", "beta": [0.1, 5]}]},
        {"training": {"seeds": [0, 1], "log_every": 3, "checkpoint_seconds": 1}},
        {"training": {"pairs_per_pass": 4}},
        {"training": {"lower_layers_gib": 0}},
        {"data": {"prompt_column": "question"}},  # what it selects is part of the data's digest
        {"evaluation": {"rows_per_batch": 4}},
    ],
)
def test_the_identity_covers_nothing_else(changes: dict[str, Any]) -> None:
    assert identity(experiment(**changes)) == identity(experiment())


def test_a_reward_counts_by_what_it_is_and_not_by_where_it_lies() -> None:
    here = identity(experiment(evaluation={"reward": "model:/here"}))
    assert here == identity(experiment(evaluation={"reward": "model:/there"}))
    other = dataclasses.replace(CONTENT, reward="model 2")
    assert here != identity(experiment(evaluation={"reward": "model:/here"}), other)


@pytest.mark.parametrize(
    ("setting", "counts"),
    [
        ({"judge_concurrency": 3}, False),
        ({"judge_key_variable": "MINE"}, False),
        ({"judge_opponents": 2}, True),
        ({"every": 10}, True),
        ({"kl_reverse": True}, True),
        ({"controls": 4}, True),
    ],
)
def test_settings_count_where_they_change_what_is_stored(
    setting: dict[str, Any], counts: bool
) -> None:
    assert (identity(experiment(evaluation=setting)) != identity(experiment())) == counts


def test_an_adapter_counts_with_all_its_settings_and_its_absence_not_at_all() -> None:
    """Results from before there were adapters are still found."""
    assert "lora" not in conditions(experiment(), CONTENT)["training"]
    usual = identity(experiment(training={"lora": {}}))
    for key, value in {
        "rank": 4,
        "alpha": 8.0,
        "rslora": True,
        "target_modules": ["q_proj"],
        "layers": "top:1",
    }.items():
        assert identity(experiment(training={"lora": {key: value}})) != usual, key
    assert identity(experiment(training={"lora": {"rank": 16}})) == usual


def test_the_layers_of_an_adapter_count_where_they_are_not_all() -> None:
    """Results from before there were such adapters are still found."""
    assert (
        "layers" not in conditions(experiment(training={"lora": {}}), CONTENT)["training"]["lora"]
    )
    top = identity(experiment(training={"lora": {"layers": "top:0.25"}}))
    assert top == identity(experiment(training={"lora": {"layers": "top:.250"}}))
    assert top != identity(experiment(training={"lora": {"layers": "top:1"}}))


def labels(**changes: Any) -> list[str]:
    return [trial.label for trial in plan_trials(experiment(**changes))]


def test_keys_of_training_are_axes_of_a_loss_or_of_all() -> None:
    losses = [{"name": "dpo", "beta": 0.1}, {"name": "ipo", "beta": 1, "schedule": "cosine"}]
    found = labels(losses=losses, training={"learning_rate": [1e-3, 2e-3], "steps": 9})
    assert found == [
        "dpo beta=0.1 seed=0",
        "dpo beta=0.1 learning_rate=0.002 seed=0",
        "ipo beta=1 schedule=cosine seed=0",
        "ipo beta=1 learning_rate=0.002 schedule=cosine seed=0",
    ]


def test_zipped_values_go_together_and_the_others_with_each() -> None:
    loss = {"name": "dpo", "beta": [1, 2], "steps": [10, 20], "learning_rate": [0.1, 0.2]}
    found = labels(losses=[{**loss, "zip": ["beta", "steps"]}], training={"steps": 5})
    assert [one.removeprefix("dpo ") for one in found] == [
        "beta=1 learning_rate=0.1 steps=10 seed=0",
        "beta=2 learning_rate=0.1 steps=20 seed=0",
        "beta=1 learning_rate=0.2 steps=10 seed=0",
        "beta=2 learning_rate=0.2 steps=20 seed=0",
    ]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"zip": ["beta", "steps"], "steps": [1, 2, 3]}, r"beta has 2, steps has 3"),
        ({"zip": ["steps"]}, r"steps has 0"),
        ({"precision": "bf16"}, r"precision holds for a whole sweep"),
        ({"seeds": [1, 2]}, r"seeds holds for a whole sweep"),
        ({"schedule": "round"}, r"dpo: schedule: "),
        ({"learning_rate": -1}, r"dpo: learning_rate: "),
        ({"learning_rate": "auto"}, r"auto is for \[training\]"),
        ({"steps": 1.5}, r"dpo: steps: "),
        ({"steps": 3, "epochs": 1}, r"steps or epochs, not both"),
        ({"stepz": 3}, r"no hyperparameter 'stepz'"),
    ],
)
def test_values_of_training_that_cannot_be_meant_are_refused(
    loss: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan_trials(
            validate(
                {
                    "name": "x",
                    "policy": "world:reviews",
                    "preferences": "world:reviews",
                    "losses": [{"name": "dpo", "beta": [0.1, 1], **loss}],
                },
                "file",
            )
        )


@pytest.mark.usefixtures("any_source")
def test_a_trial_is_the_same_however_its_values_of_training_are_given() -> None:
    """As a loss's own value, as the sweep's, and where the sweep says it in epochs."""
    dpo = {"name": "dpo", "beta": 0.1}
    as_own = experiment(
        losses=[{**dpo, "learning_rate": 2e-3, "steps": 50}],
        training={"learning_rate": 1e-3, "epochs": 2},
    )
    as_all = experiment(losses=[dpo], training={"learning_rate": 2e-3, "steps": 50})
    assert identity(as_own) == identity(as_all)
    assert identity(as_own) != identity(experiment(losses=[dpo], training={"steps": 50}))
    trained = plan_trials(as_own)[0].settings(as_own.training)
    assert (trained.learning_rate, trained.steps, trained.epochs) == (2e-3, 50, None)


def test_a_value_that_the_sweep_has_anyway_is_none_of_the_trials_own() -> None:
    loss = {"name": "dpo", "beta": 0.1, "learning_rate": 1e-3}
    assert labels(losses=[loss], training={"learning_rate": 1e-3}) == ["dpo beta=0.1 seed=0"]
