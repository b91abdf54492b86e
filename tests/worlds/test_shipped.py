"""The parts of the world that ship: whole, made as the code says, and the same everywhere."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpo_bench.data.prepare import read_preferences
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.experiment.config import Data, World
from dpo_bench.experiment.read import read_file, shipped, validate
from dpo_bench.model.source import resolve_model
from dpo_bench.storage import MANIFEST, file_digest
from dpo_bench.worlds import WORLDS, cache, world_model, world_preferences
from dpo_bench.worlds.__main__ import PAIRS, SEED, build, machine
from dpo_bench.worlds.cache import RECORD, SHIPPED, read_record, stream_seed
from dpo_bench.worlds.grammar import write_prompt
from dpo_bench.worlds.responses import HELDOUT_PAIRS, ResponsePair, read_pairs
from dpo_bench.worlds.tokenizer import build_tokenizer
from tests.worlds.small import rows

MODEL = "80d04fb25fa2c3d73be0f7b1aaf01e91d6ba8dc039b0e300eab957d89c2c5a38"
DATA: list[tuple[dict[str, Any], str]] = [
    ({}, "7f004c782122"),
    ({"labels": "bradley_terry"}, "a7b79614c2c0"),
    ({"flip_rate": 0.2}, "1b31954951d2"),
    ({"labels": "bradley_terry", "proxy": "length"}, "4228c2b269bd"),
    ({"pairs": 256}, "72fd79f270f6"),
    ({"pairs": PAIRS}, "f09145a36f49"),
]
"""Digests of the committed bytes; whoever builds the world anew writes new ones here."""

PARTS = sorted(folder.name for folder in SHIPPED.iterdir())
BLOCKS = [part for part in PARTS if part.startswith("reviews-pairs-")]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped parts where they can be damaged."""
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "shipped"))
    monkeypatch.setattr(cache, "SHIPPED", folder)
    return folder


def test_the_model_is_the_committed_one_and_nothing_is_trained(empty_cache: Path) -> None:
    told: list[str] = []
    found = resolve_model(
        "world:reviews", world=World(), progress=lambda phase, *_: told.append(phase)
    )
    assert found.digest == MODEL
    assert found.path == SHIPPED / "reviews-model"
    assert not [phase for phase in told if "training" in phase or "sampling" in phase]
    assert not empty_cache.exists()


@pytest.mark.parametrize(("options", "expected"), DATA)
def test_the_data_is_the_committed_one(
    options: dict[str, Any], expected: str, empty_cache: Path
) -> None:
    folder = world_preferences("reviews", World(**options))
    assert read_preferences(str(folder), Data()).digest[:12] == expected
    assert len(rows(folder / "train.jsonl")) == options.get("pairs", World().pairs)
    (made,) = (empty_cache / "worlds").iterdir()
    assert made == folder


@pytest.mark.parametrize("part", PARTS)
def test_every_file_is_recorded_and_as_recorded(part: str) -> None:
    files = {path.name: file_digest(path) for path in (SHIPPED / part).iterdir()}
    del files[MANIFEST]
    assert json.loads((SHIPPED / part / MANIFEST).read_text())["artefacts"] == files
    del files[RECORD]
    assert read_record(SHIPPED / part)["files"] == files


def test_the_experiments_need_no_more_than_what_ships() -> None:
    assert sum(read_record(SHIPPED / part)["facts"]["pairs"] for part in BLOCKS) >= PAIRS
    experiments = [validate(read_file(file), file.name) for file in shipped().values()]
    needed = [one.world for one in experiments if "world:" in f"{one.policy} {one.preferences}"]
    assert len(needed) > 3
    assert max(world.pairs for world in needed) <= PAIRS
    assert {world.seed for world in needed} == {SEED}


def test_the_committed_reports_are_of_this_world() -> None:
    pages = (Path(__file__).parents[2] / "reports").glob("*/report.md")
    policies = {
        page.parent.name: found[1]
        for page in pages
        if (found := re.search(r"- policy, SHA-256: (\w{64})", page.read_text("utf-8")))
    }
    assert len(policies) > 5
    others = {name for name, policy in policies.items() if policy != MODEL}
    assert others <= {"all-losses"}  # as reports/README.md says


def drawn_prompts(use: str, block: int) -> Iterator[str]:
    """The prompts that the grammar gives for a block: exact arithmetic, the same everywhere."""
    generator = np.random.default_rng(stream_seed("prompts", SEED, use, block))
    while True:
        yield write_prompt(generator)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_training_prompts_are_those_that_the_grammar_draws(block: int) -> None:
    drawn = islice(drawn_prompts("training", block), 300)
    for pair in read_pairs(SHIPPED / BLOCKS[block]):
        assert pair.prompt in drawn  # reads on from the last one: in order, some passed over


def test_heldout_prompts_are_those_that_the_grammar_draws() -> None:
    drawn = [prompt for part in range(3) for prompt in islice(drawn_prompts("heldout", part), 300)]
    ahead = iter(drawn)
    assert all(pair.prompt in ahead for pair in read_pairs(SHIPPED / "reviews-heldout"))


def test_the_tokenizer_is_the_one_that_the_code_builds(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    built, shipped = (
        json.loads((folder / "tokenizer.json").read_text("utf-8"))
        for folder in (tmp_path, SHIPPED / "reviews-model")
    )
    assert built == shipped


def test_the_recipe_is_the_shipped_models_and_another_one_is_built(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpo_bench.worlds.reference_policy import Recipe

    assert world_model("reviews", World()) == SHIPPED / "reviews-model"
    monkeypatch.setitem(WORLDS, "reviews", Recipe(width=32, steps=1))
    for world in (World(), World(seed=1)):
        assert world_model("reviews", world).parent == empty_cache / "worlds"


def test_more_pairs_are_sampled_from_the_shipped_model(empty_cache: Path) -> None:
    shipped = sum(read_record(SHIPPED / part)["facts"]["pairs"] for part in BLOCKS)
    folder = world_preferences("reviews", World(pairs=shipped + 1))
    made = sorted(path.name for path in (empty_cache / "worlds").iterdir())
    assert len(made) == 2
    assert made[0].startswith(f"reviews-pairs-{len(BLOCKS):04d}-")
    many = rows(folder / "train.jsonl")
    assert many[:PAIRS] == rows(world_preferences("reviews", World(pairs=PAIRS)) / "train.jsonl")
    assert len(many) == shipped + 1


@pytest.mark.parametrize("damage", ["weights", "missing", "record"])
def test_a_damaged_installation_is_said(damage: str, copied: Path) -> None:
    model = copied / "reviews-model"
    if damage == "weights":
        content = bytearray((model / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (model / "model.safetensors").write_bytes(content)
    elif damage == "missing":
        (model / "tokenizer.json").unlink()
    else:
        (model / RECORD).write_text("{")
    with pytest.raises(EnvironmentProblem, match="install dpo_bench again"):
        world_model("reviews", World())


@pytest.mark.slow
def test_built_again_on_the_same_machine_it_is_the_same(tmp_path: Path) -> None:
    """On another processor, or with other versions, the model is another in its last bits.

    What must agree everywhere is what needs no model: names, prompts, tokenizer.
    """
    build(tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == PARTS

    def pairs(root: Path) -> list[ResponsePair]:
        return [pair for part in PARTS[:1] + BLOCKS for pair in read_pairs(root / part)]

    again, shipped = pairs(tmp_path / "again"), pairs(SHIPPED)
    model = SHIPPED / "reviews-model"
    if machine() == read_record(model)["machine"]:
        assert again == shipped
        assert read_record(tmp_path / "again" / "reviews-model") == read_record(model)
    prompts = {pair.prompt for pair in shipped}
    kept = sum(pair.prompt in prompts for pair in again) / len(again)
    assert kept > 0.95
    assert len(read_pairs(tmp_path / "again" / "reviews-heldout")) == HELDOUT_PAIRS
