"""The marks on the keys decide what a trial's identity covers, and what a mistyped key may mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest

from dpo_bench.experiment import (
    Content,
    Experiment,
    apply_setting,
    conditions,
    read_file,
    shipped,
    validate,
)
from dpo_bench.experiment.config import Section, Training
from dpo_bench.experiment.fields import (
    DIGESTED,
    NO_EFFECT,
    OMITTED,
    VARIED,
    Kind,
    values,
    walk,
    without,
)
from dpo_bench.storage import digest

CONTENT = Content(policy="p", reference="r", data="d", reward="vader 1", device="cpu/fp32")
KNOWN: dict[str, str] = json.loads(
    (Path(__file__).parent / "data" / "conditions.json").read_text(encoding="utf-8")
)
"""Digests of what the trials of every shipped file share, each with one key changed, as they were
when the classification of keys stood in lists of its own."""


def shared_digest(name: str, change: str) -> str:
    path = shipped()[name]
    tree = read_file(path)
    tree.setdefault("name", path.stem)
    if change:
        apply_setting(tree, change)
    if change == "training.epochs=2":
        tree["training"].pop("steps", None)
    return digest(conditions(validate(tree, name), CONTENT))[:16]


@pytest.mark.parametrize("name", sorted({case.split(" ")[0] for case in KNOWN}))
def test_no_trial_of_a_shipped_file_changes_its_identity(name: str) -> None:
    cases = {case: value for case, value in KNOWN.items() if case.split(" ")[0] == name}
    found = {case: shared_digest(name, case.partition(" ")[2]) for case in cases}
    assert found == cases


def test_a_key_without_a_mark_is_part_of_the_identity() -> None:
    """Who adds a key and forgets to mark it computes anew, and never takes a wrong result."""

    class Longer(Training):
        new: int = 3
        harmless: Annotated[int, NO_EFFECT] = 4

    kept = without(Longer, Longer().model_dump(mode="json"), NO_EFFECT, DIGESTED, VARIED)
    assert kept["new"] == 3
    assert "harmless" not in kept


def test_an_omitted_key_counts_where_it_is_set() -> None:
    class Young(Section):
        young: Annotated[int | None, OMITTED] = None

    assert without(Young, {"young": None}) == {}
    assert without(Young, {"young": 1}) == {"young": 1}


def test_marks_of_a_section_hold_for_all_that_stands_in_it() -> None:
    keys = {key.path: key for key in walk(Experiment)}
    assert keys["world.seed"].needed_for == "world"
    assert keys["data.pairs"].has(DIGESTED)
    assert keys["evaluation.judge_timeout"].needed_for == "judge"
    assert keys["training.lora.rank"].section is None


def test_marks_inside_a_section_hold_too() -> None:
    class Inner(Section):
        harmless: Annotated[int, NO_EFFECT] = 1
        counts: int = 2

    class Outer(Section):
        inner: Inner = Inner()
        maybe: Inner | None = None

    settings = Outer(maybe=Inner()).model_dump()
    assert without(Outer, settings, NO_EFFECT) == {
        "inner": {"counts": 2},
        "maybe": {"counts": 2},
    }
    assert without(Outer, Outer().model_dump(), NO_EFFECT)["maybe"] is None


def whole(**changes: Any) -> Experiment:
    base = {"name": "x", "policy": "folder", "preferences": "pairs.jsonl", "losses": ["dpo"]}
    return Experiment.model_validate(base | changes)


def test_every_plain_value_stands_with_its_key_and_tables_within_a_value_stay_whole() -> None:
    options = {"enable_thinking": False}
    found = {
        key.path: value for key, value in values(whole(data={"chat_template_kwargs": options}))
    }
    assert found["data.chat_template_kwargs"] == options
    assert found["training.lora"] is None
    assert not any(path.startswith("training.lora.") for path in found)
    adapted = {key.path: value for key, value in values(whole(training={"lora": {"rank": 4}}))}
    assert adapted["training.lora.rank"] == 4
    assert "training.lora" not in adapted


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, set()),
        ({"reference": "world:reviews"}, {"world"}),
        ({"evaluation": {"reward": "judge:small"}}, {"judge"}),
        ({"evaluation": {"reward": "sentiment:folder"}}, {"classifier"}),
        ({"evaluation": {"reward": "model:folder"}}, {"classifier"}),
        ({"evaluation": {"reward": "module:function"}}, set()),
        ({"evaluation": {"reward": "judge"}}, set()),
    ],
)
def test_what_keys_need_is_there_or_not(changes: dict[str, Any], kinds: set[Kind]) -> None:
    assert {kind for kind in get_args(Kind) if whole(**changes).has(kind)} == kinds


def test_spellings_of_other_programs_are_unambiguous() -> None:
    named = [name for key in walk(Experiment) for name in key.names_elsewhere]
    assert len(named) == len(set(named))
