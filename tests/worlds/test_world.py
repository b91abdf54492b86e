"""The world as it ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import World
from dpo_bench.worlds import WORLDS, world_model, world_preferences
from dpo_bench.worlds.cache import read_facts
from tests.worlds.small import rows


@pytest.fixture(scope="module")
def folders() -> tuple[Path, Path]:
    return world_model("reviews", World()), world_preferences("reviews", World())


@pytest.mark.parametrize("build", [world_model, world_preferences])
def test_an_unknown_world_is_refused_with_the_known_ones(build: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"no world:novels; known: world:reviews"):
        build("novels", World())


def test_reviews_is_the_known_world() -> None:
    assert sorted(WORLDS) == ["reviews"]


def test_the_model_is_of_the_promised_size(folders: tuple[Path, Path]) -> None:
    facts = read_facts(folders[0])
    assert 50_000 < facts["parameters"] < 100_000
    assert 200 <= facts["vocabulary"] <= 300


def test_the_references_responses_are_mostly_well_formed(folders: tuple[Path, Path]) -> None:
    facts = read_facts(folders[1])["reference"]
    assert facts["well_formed"] > 0.8
    assert 11 < facts["words_mean"] < 16


def test_the_gold_reward_is_spread_and_not_saturated(folders: tuple[Path, Path]) -> None:
    facts = read_facts(folders[1])["reference"]
    assert -0.1 < facts["gold_mean"] < 0.25
    assert 0.5 < facts["gold_sd"] < 0.7
    assert facts["gold_beyond_0.9"] < 0.06


def test_the_proxies_are_misspecified(folders: tuple[Path, Path]) -> None:
    proxies = read_facts(folders[1])["proxies"]
    assert 0.65 < proxies["bag_of_words"]["agrees_with_gold"] < 0.85
    assert 0.45 < proxies["length"]["agrees_with_gold"] < 0.6


def test_the_folder_holds_the_wanted_pairs(folders: tuple[Path, Path]) -> None:
    assert len(rows(folders[1] / "train.jsonl")) == World().pairs
    assert len(rows(folders[1] / "heldout.jsonl")) == 512
