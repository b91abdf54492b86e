from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpo_bench.storage import cache_root
from dpo_bench.vader import gold_scores
from dpo_bench.worlds.grammar import is_prompt
from dpo_bench.worlds.labels import bag_of_words_scores
from dpo_bench.worlds.responses import HELDOUT_PAIRS
from tests.worlds.small import Row, model, preferences, texts

LABELINGS: list[dict[str, Any]] = [
    {"flip_rate": 0.3},
    {"labels": "bradley_terry", "temperature": 1.0},
    {"proxy": "bag_of_words"},
    {"proxy": "length"},
]


def gold(rows: list[Row], side: str) -> list[float]:
    return gold_scores([row[side] for row in rows])


def test_exactly_the_wanted_number_of_usable_pairs_comes_out() -> None:
    for count in (1, 300):
        training, heldout = preferences(pairs=count)
        assert len(training) == count
        assert len(heldout) == HELDOUT_PAIRS
    for row in training + heldout:
        assert sorted(row) == ["chosen", "margin", "prompt", "rejected"]
        assert is_prompt(row["prompt"])
        assert row["chosen"] != row["rejected"]
        for response in (row["chosen"], row["rejected"]):
            assert response.strip()
            assert "<" not in response


def test_fewer_pairs_are_the_first_of_more() -> None:
    noisy: dict[str, Any] = {"labels": "bradley_terry", "flip_rate": 0.1}
    few, _ = preferences(pairs=40, **noisy)
    many, _ = preferences(pairs=300, **noisy)
    assert few == many[:40]


@pytest.mark.parametrize("options", LABELINGS)
def test_label_options_change_labels_only(options: dict[str, Any]) -> None:
    plain, heldout = preferences()
    other, other_heldout = preferences(**options)
    assert list(map(texts, other)) == list(map(texts, plain))
    assert 0.02 < sum(a != b for a, b in zip(plain, other, strict=True)) / len(plain) < 0.6
    assert other_heldout == heldout


def test_plain_labels_are_the_gold_rewards() -> None:
    training, heldout = preferences()
    for rows in (training, heldout):
        pairs = zip(gold(rows, "chosen"), gold(rows, "rejected"), strict=True)
        assert all(chosen > rejected for chosen, rejected in pairs)


def test_proxy_labels_never_go_against_the_proxy() -> None:
    rows, _ = preferences(proxy="bag_of_words")
    chosen = bag_of_words_scores([row["chosen"] for row in rows])
    rejected = bag_of_words_scores([row["rejected"] for row in rows])
    assert all(won >= lost for won, lost in zip(chosen, rejected, strict=True))
    assert any(
        won < lost for won, lost in zip(gold(rows, "chosen"), gold(rows, "rejected"), strict=True)
    )


def test_heldout_prompts_differ_from_each_other_and_from_the_training_prompts() -> None:
    training, heldout = preferences()
    prompts = {row["prompt"] for row in heldout}
    assert len(prompts) == HELDOUT_PAIRS
    assert prompts.isdisjoint(row["prompt"] for row in training)


def test_new_labels_reuse_the_sampled_texts() -> None:
    preferences()
    worlds = cache_root() / "worlds"
    before = {path.name for path in worlds.glob("small-*") if "preferences" not in path.name}
    preferences(flip_rate=0.25)
    after = {path.name for path in worlds.glob("small-*") if "preferences" not in path.name}
    assert after == before


def test_an_idle_temperature_makes_no_new_data() -> None:
    preferences(temperature=0.5)
    told: list[str] = []
    preferences(temperature=0.7, progress=lambda phase, *_: told.append(phase))
    assert told == []


def test_another_seed_gives_other_texts() -> None:
    first, _ = preferences(pairs=20)
    second, _ = preferences(pairs=20, seed=1)
    assert {row["prompt"] for row in first}.isdisjoint(row["prompt"] for row in second)


@pytest.mark.slow
def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from tests.worlds.small import model, preferences\n"
        "rows, heldout = preferences(pairs=20)\n"
        "print(model().name, len(rows), len(heldout))\n"
    )
    environment = os.environ | {"DPO_BENCH_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=240)[0].decode().strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed == [f"{model().name} 20 {HELDOUT_PAIRS}"] * 2
    folders = sorted(path.name for path in (tmp_path / "worlds").iterdir())
    assert len(folders) == 4  # model, held-out pairs, one block of pairs, preferences
    assert not any(name.startswith(".") for name in folders)
