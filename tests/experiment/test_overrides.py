"""Overrides over files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.overrides import Overrides, resolve, resolve_evaluation


def test_nothing_given_is_the_quickstart() -> None:
    experiment = resolve(None, Overrides())
    assert experiment.name == "quickstart"
    assert len(experiment.losses) == 4


def test_flags_change_the_quickstart() -> None:
    experiment = resolve(
        None,
        Overrides(
            losses=("ipo", "sigmoid"), seeds=("0,1",), settings=("training.steps=5",), reward="none"
        ),
    )
    assert [grid.name for grid in experiment.losses] == ["ipo", "dpo"]
    assert experiment.search is not None
    assert experiment.training.seeds == (0, 1)
    assert experiment.training.steps == 5
    assert experiment.evaluation.reward == "none"


@pytest.mark.parametrize("text", [".05,.1", "0.05, 1e-1", "5e-2,.1"])
def test_strengths_may_be_written_as_people_do(text: str) -> None:
    experiment = resolve(None, Overrides(losses=("dpo",), beta=(text,)))
    assert experiment.losses[0].values["beta"] == (0.05, 0.1)


@pytest.mark.parametrize("text", ["high", "", ",", "true"])
def test_strengths_must_be_numbers(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--beta"):
        resolve(None, Overrides(losses=("dpo",), beta=(text,)))


def test_a_model_of_ones_own_leaves_the_quickstart_settings_behind() -> None:
    experiment = resolve(None, Overrides(policy="models/Tiny", preferences="data/my pairs.jsonl"))
    assert experiment.name == "Tiny-my-pairs"
    assert experiment.training.learning_rate == "auto"
    assert experiment.evaluation.reward == "none"
    assert [grid.values for grid in experiment.losses] == [{}] * len(experiment.losses)


def test_a_model_needs_its_data() -> None:
    with pytest.raises(ConfigurationError, match="give --preferences too"):
        resolve(None, Overrides(policy="models/tiny"))
    with pytest.raises(ConfigurationError, match="give --policy too"):
        resolve(None, Overrides(preferences="x.jsonl"))


def test_a_repeated_flag_collects() -> None:
    once, twice = (
        Overrides(losses=("dpo,ipo",), beta=(".1,.3",)),
        Overrides(losses=("dpo", "ipo"), beta=(".1", ".3")),
    )
    assert resolve(None, once).losses == resolve(None, twice).losses


def test_blanks_between_losses_are_no_commas() -> None:
    with pytest.raises(ConfigurationError, match="separate losses by commas: dpo,ipo"):
        resolve(None, Overrides(losses=("dpo ipo",)))


@pytest.mark.parametrize("losses", [["dpo", "ipo"], "dpo", [{"name": "dpo"}, "ipo"]])
def test_losses_may_be_names_alone(tmp_path: Path, losses: object) -> None:
    file = tmp_path / "mine.toml"
    text = json.dumps(losses).replace('{"name": "dpo"}', '{name = "dpo"}')
    file.write_text(f'policy = "world:reviews"\npreferences = "world:reviews"\nlosses = {text}\n')
    plain = resolve(str(file), Overrides())
    assert plain.losses[0].name == "dpo"
    strength = resolve(str(file), Overrides(beta=(".5",)))
    assert all(grid.values == {"beta": (0.5,)} for grid in strength.losses)
    assert [grid.name for grid in resolve(str(file), Overrides(losses=("sft",))).losses] == ["sft"]


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("losses = 3", {"beta": (".1",)}),
        ("losses = [3]", {"losses": ("dpo",)}),
        ("[losses]\nbeta = 1", {"beta": (".1",)}),
        ("[[losses]]\nbeta = 1", {"losses": ("dpo",)}),
        ('[[losses]]\nname = ["dpo"]', {"beta": (".1",)}),
        ('losses = ["dpo"]\nevaluation = 1', {"reward": "vader"}),
        ('losses = ["dpo"]\ntraining = [0]', {"seeds": ("1",)}),
    ],
)
def test_flags_over_a_malformed_file_are_an_error_of_a_line(
    tmp_path: Path, text: str, flags: dict[str, Any]
) -> None:
    file = tmp_path / "mine.toml"
    head = 'policy = "world:reviews"\npreferences = "world:reviews"\n'
    top, tables = (text, "") if not text.startswith("[") else ("", text)
    file.write_text(f"{head}{top}\n{tables}\n")
    with pytest.raises(ConfigurationError, match=r"losses must be tables|must be a table"):
        resolve(str(file), Overrides(**flags))


def test_an_evaluation_needs_both_or_neither() -> None:
    with pytest.raises(ConfigurationError, match="give --reference too"):
        resolve_evaluation(None, "tuned", Overrides(preferences="x.jsonl"))
    with pytest.raises(ConfigurationError, match="give --preferences too"):
        resolve_evaluation(None, "tuned", Overrides(reference="base"))
    own = resolve_evaluation(None, "tuned", Overrides(reference="base", preferences="x.jsonl"))
    assert (own.policy, own.reference, own.preferences) == ("tuned", "base", "x.jsonl")
    assert resolve_evaluation(None, "tuned", Overrides()).policy == "world:reviews"


def test_unknown_losses_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'hinge'"):
        resolve(None, Overrides(losses=("hing",)))


def test_a_file_is_named_after_itself(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'policy = "world:reviews"\npreferences = "world:reviews"\n[[losses]]\nname = "dpo"\n'
    )
    assert resolve(str(file), Overrides()).name == "mine"


def test_set_reaches_into_a_losses_table_by_its_name() -> None:
    settings = ("losses.simpo.beta=2", "losses.simpo.gamma_beta_ratio=[0.1, 0.3]")
    found = resolve(None, Overrides(losses=("dpo,simpo",), settings=settings))
    assert [dict(grid.values) for grid in found.losses] == [
        {},
        {"beta": (2.0,), "gamma_beta_ratio": (0.1, 0.3)},
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("losses.simpo.beta=1", r"of simpo there is none among the losses"),
        ("losses.dpoo.beta=1", r"dpoo"),
        ("losses.beta=1", r"write it as losses\.NAME\.key=value"),
    ],
)
def test_set_of_a_loss_that_is_not_swept_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve(None, Overrides(losses=("dpo",), settings=(setting,)))


def test_given_strengths_put_a_search_aside() -> None:
    assert resolve(None, Overrides()).search is not None
    found = resolve(None, Overrides(losses=("dpo",), beta=("0.1,0.3",)))
    assert found.search is None
    assert found.losses[0].values == {"beta": (0.1, 0.3)}


def test_what_the_search_says_of_the_comparison_can_be_changed_from_outside() -> None:
    found = resolve(None, Overrides(settings=('comparison.baseline="ipo"', "search.kl=[1,2]")))
    assert found.search is not None
    assert (found.search.baseline, found.comparison.baseline) == ("ipo", "ipo")
    assert found.search.kl == found.comparison.kl == (1.0, 2.0)


def test_a_search_can_be_put_aside_or_begun() -> None:
    assert resolve(None, Overrides(no_search=True)).search is None
    found = resolve(None, Overrides(sections={"search": {"seeds": [3]}})).search
    assert found is not None
    assert (found.seeds, found.baseline) == ((3,), "dpo")


def test_the_files_baseline_is_left_out_with_its_loss() -> None:
    found = resolve(None, Overrides(losses=("ipo,hinge",)))
    assert found.comparison.baseline == ""
    assert resolve(None, Overrides(losses=("ipo,sigmoid",))).comparison.baseline == "dpo"
    asked = Overrides(losses=("ipo,hinge",), settings=('comparison.baseline="ipo"',))
    assert resolve(None, asked).comparison.baseline == "ipo"
