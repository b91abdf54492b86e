from __future__ import annotations

import pytest

from dpo_bench.data.splits import find_split, matching_heldout
from dpo_bench.errors import DataError


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (["test", "train"], "train"),
        (["train", "train_prefs"], "train"),
        (["test_prefs", "train_prefs"], "train_prefs"),
        (["train-dpo", "train-sft"], "train-dpo"),
        (["test_gen", "test_prefs", "train_gen", "train_prefs", "train_sft"], "train_prefs"),
        (["train.v2", "validation"], "train.v2"),
        (["default"], "default"),
        (["filtered"], "filtered"),
        (["training"], "training"),
    ],
)
def test_the_training_split_is_the_one_that_can_only_be_meant(known: list[str], found: str) -> None:
    assert find_split("d", "train", known) == found


@pytest.mark.parametrize(
    "known",
    [
        ["train_a", "train_b"],
        ["train_prefs", "train_dpo"],
        ["test"],
        ["test_prefs"],
        ["validation"],
        ["heldout"],
        ["a", "b"],
        [],
    ],
)
def test_anything_else_must_be_named(known: list[str]) -> None:
    with pytest.raises(DataError, match=r"d has no split 'train'.*; its splits: "):
        find_split("d", "train", known)


def test_another_split_is_taken_by_its_name_alone() -> None:
    with pytest.raises(DataError, match=r"no split 'prefs' \(did you mean 'train_prefs'"):
        find_split("d", "prefs", ["train_prefs"])


@pytest.mark.parametrize(
    ("split", "known", "heldout"),
    [
        ("train_prefs", ["test_prefs", "test_sft", "train_prefs"], "test_prefs"),
        ("train-v2", ["test-v2", "train-v2"], "test-v2"),
        ("train_prefs", ["test", "train_prefs"], None),
        ("train_prefs", ["test_sft", "train_prefs"], None),
        ("train", ["test", "train"], None),
        ("default", ["default", "test"], None),
    ],
)
def test_the_heldout_split_has_the_same_ending(
    split: str, known: list[str], heldout: str | None
) -> None:
    assert matching_heldout(split, known) == heldout
