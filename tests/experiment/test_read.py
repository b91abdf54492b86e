"""Experiment files and overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpo_bench.catalogue.cards import shipped_losses
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment import Experiment, apply_setting, find_file, read_file, shipped, validate
from dpo_bench.experiment.read import documented_keys

SMALL: dict[str, Any] = {
    "name": "small",
    "policy": "world:reviews",
    "preferences": "world:reviews",
    "losses": [{"name": "dpo"}],
}


def test_defaults_fill_what_a_file_leaves_out() -> None:
    experiment = validate(SMALL, "small.toml")
    assert experiment.training.seeds == (0,)
    assert experiment.evaluation.reward == "none"
    assert experiment.losses[0].values == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainin": {}}, r"x\.toml: unknown key trainin \(did you mean 'training'\?\)"),
        (
            {"training": {"learning_rat": 1}},
            r"unknown key training\.learning_rat \(did you mean 'learning_rate'\?\)",
        ),
        ({"training": {"steps": 0}}, r"training\.steps = 0: .*greater than or equal to 1"),
        ({"training": {"learning_rate": -1}}, r"training\.learning_rate = -1: .*greater than 0"),
        ({"training": {"learning_rate": float("nan")}}, r"learning_rate = nan"),
        ({"training": {"steps": 1, "epochs": 1}}, r"give steps or epochs, not both"),
        ({"training": {"seeds": [1, 1]}}, r"seeds are given twice"),
        ({"training": {"optimizer": "sgd"}}, r"'adamw' or 'rmsprop'"),
        (
            {"training": {"lora": {"rnak": 4}}},
            r"unknown key training\.lora\.rnak \(did you mean 'rank'\?\)",
        ),
        ({"training": {"lora": {"rank": 0}}}, r"training\.lora\.rank = 0: .*greater than or equal"),
        ({"training": {"lora": {"dropout": 0.1}}}, r"unknown key training\.lora\.dropout"),
        ({"training": {"lora": {"layers": "top:0"}}}, r"layers = 'top:0': .*give all, top:N"),
        ({"training": {"lora": {"layers": "top:1.5"}}}, r"layers = 'top:1\.5': .*top:SHARE"),
        ({"training": {"lora": {"layers": "upper"}}}, r"layers = 'upper': .*such as top:0\.25"),
        (
            {"training": {"lora": {}, "reference_sync_steps": 5}},
            r"lora and reference_sync_steps do not go together",
        ),
        ({"world": {"flip_rate": 0.5}}, r"world\.flip_rate = 0\.5"),
        ({"losses": []}, r"losses: .*at least 1"),
        ({"losses": [{"beta": [1]}]}, r"losses\.0\.name is missing"),
        ({"losses": [{"name": "dpo", "beta": "high"}]}, r"losses\.0: beta = 'high'"),
        ({"policy": None}, r"policy"),
    ],
)
def test_a_wrong_key_or_value_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        validate({**SMALL, **change}, "x.toml")
    assert len(str(caught.value).splitlines()) <= 4


def test_an_experiment_cannot_be_changed() -> None:
    experiment = validate(SMALL, "small.toml")
    with pytest.raises(ValueError, match="frozen"):
        experiment.name = "other"


def test_settings_survive_json() -> None:
    experiment = validate(SMALL, "small.toml")
    assert Experiment.model_validate(experiment.settings()) == experiment


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("training.steps=5", ("training", "steps"), 5),
        ("training.learning_rate = 5e-7", ("training", "learning_rate"), 5e-7),
        ("training.optimizer=rmsprop", ("training", "optimizer"), "rmsprop"),
        ("training.seeds=[1, 2]", ("training", "seeds"), [1, 2]),
        ("name=x y", ("name",), "x y"),
        ("evaluation.reward=my.module:score", ("evaluation", "reward"), "my.module:score"),
    ],
)
def test_set_reads_values_as_toml(assignment: str, path: tuple[str, ...], value: object) -> None:
    tree: Any = {}
    apply_setting(tree, assignment)
    for key in path:
        tree = tree[key]
    assert tree == value


@pytest.mark.parametrize("assignment", ["steps", "=3", "name.x=3"])
def test_set_refuses_what_it_cannot_place(assignment: str) -> None:
    with pytest.raises(ConfigurationError, match="--set"):
        apply_setting({"name": "text"}, assignment)


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("name = 'x'\npolicy =\n")
    with pytest.raises(ConfigurationError, match=r"bad\.toml: not a TOML file: .*line 2"):
        read_file(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not a TOML file"):
        read_file(file)


def test_a_missing_file_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean 'quickstart'.*overoptimization"):
        find_file("quickstat")


def test_the_sweep_of_all_losses_names_every_shipped_one() -> None:
    named = [entry["name"] for entry in read_file(shipped()["all-losses"])["losses"]]
    assert sorted(named) == shipped_losses()


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_file_is_valid(name: str) -> None:
    experiment = validate(read_file(find_file(name)), name)
    assert experiment.name == name


def test_set_makes_an_optional_section() -> None:
    tree = dict(SMALL)
    apply_setting(tree, "training.lora.rank=4")
    lora = validate(tree, "small.toml").training.lora
    assert lora is not None
    assert (lora.rank, lora.target_modules) == (4, "all-linear")
    assert validate(SMALL, "small.toml").training.lora is None


def test_keys_of_an_optional_section_are_documented_with_it() -> None:
    keys = [path for path, _, _ in documented_keys()]
    assert keys.index("training.lora.rank") == keys.index("training.lora") + 1
    assert "losses" in keys


def test_every_key_is_documented() -> None:
    undocumented = [path for path, _, meaning in documented_keys() if not meaning]
    assert undocumented == []
