from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_bench.data.pairs import LoadedPairs
from dpo_bench.data.split import load_split_pairs, split_by_prompt
from dpo_bench.errors import ConfigurationError, DataError
from dpo_bench.experiment.config import Data
from tests.data.build import loaded, row, rows, user, write_jsonl


def prompts(pairs: LoadedPairs) -> list[Any]:
    return [pair.prompt for pair in pairs.pairs]


def split(source: str | Path, **options: Any) -> tuple[list[Any], list[Any]]:
    training, heldout = load_split_pairs(str(source), Data(**options))
    return prompts(training), prompts(heldout)


@given(
    numbers=st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda n: len(set(n)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 100),
)
def test_no_prompt_is_on_both_sides_and_the_order_of_rows_does_not_matter(
    numbers: list[int], fraction: float, seed: int
) -> None:
    records = [
        row(number, chosen=f"yes {at}", rejected=f"no {at}") for at, number in enumerate(numbers)
    ]
    training, heldout = split_by_prompt(loaded(*records), fraction)
    assert len(training) + len(heldout) == len(records)
    assert not set(prompts(training)) & set(prompts(heldout))
    assert prompts(training)
    distinct = len(set(numbers))
    wanted = min(max(1, round(fraction * distinct)), distinct - 1)
    assert len(set(prompts(heldout))) == wanted

    random.Random(seed).shuffle(records)
    again = split_by_prompt(loaded(*records), fraction)[1]
    assert set(prompts(again)) == set(prompts(heldout))


def test_both_sides_keep_the_order_of_the_rows() -> None:
    for side in split_by_prompt(loaded(*rows(50)), 0.3):
        numbers = [place.number for place in side.places]
        assert numbers == sorted(numbers)


def test_a_larger_share_holds_out_the_same_prompts_and_more() -> None:
    pairs = loaded(*rows(100))
    small, large = (set(prompts(split_by_prompt(pairs, share)[1])) for share in (0.1, 0.3))
    assert (len(small), len(large)) == (10, 30)
    assert small < large


def test_chat_prompts_are_split_too() -> None:
    pairs = loaded(row(1, prompt=[user("a")]), row(2, prompt=[user("b")]))
    training, heldout = split_by_prompt(pairs, 0.5)
    assert sorted([prompts(training)[0][0]["content"], prompts(heldout)[0][0]["content"]]) == [
        "a",
        "b",
    ]


def test_a_single_prompt_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"all pairs have the same prompt.*data\.heldout"):
        split_by_prompt(loaded(row(1, prompt="x"), row(2, prompt="x")), 0.5)


def test_a_file_is_split_by_share(tmp_path: Path) -> None:
    training, heldout = split(write_jsonl(tmp_path / "a.jsonl", rows(20)), heldout_fraction=0.25)
    assert (len(training), len(heldout)) == (15, 5)


def test_a_file_named_heldout_holds_the_heldout_pairs(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(4))
    write_jsonl(tmp_path / "heldout.jsonl", [row(9)])
    training, heldout = split(tmp_path)
    assert (len(training), heldout) == (4, ["Question 9?"])


def test_a_saved_split_named_heldout_holds_the_heldout_pairs(tmp_path: Path) -> None:
    parts = {"train": rows(4), "heldout": [row(9)]}
    saved = {name: datasets.Dataset.from_list(part) for name, part in parts.items()}
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "saved"))
    assert split(tmp_path / "saved")[1] == ["Question 9?"]


def test_a_split_named_test_is_taken_only_when_asked_for(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(10))
    write_jsonl(tmp_path / "test.jsonl", [row(90)])
    assert split(tmp_path, heldout="test")[1] == ["Question 90?"]
    training, heldout = split(tmp_path)
    assert (len(training), len(heldout)) == (9, 1)
    assert heldout != ["Question 90?"]


def test_an_explicit_choice_wins_over_a_file_named_heldout(tmp_path: Path) -> None:
    for name, number in (("train", 1), ("heldout", 2), ("test", 3)):
        write_jsonl(tmp_path / f"{name}.jsonl", [row(number)])
    assert split(tmp_path, heldout="test") == (["Question 1?"], ["Question 3?"])


def test_heldout_pairs_may_come_from_another_file(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", rows(3))
    other = write_jsonl(tmp_path / "b.jsonl", [row(9)])
    assert split(source, heldout=other) == ([f"Question {n}?" for n in range(3)], ["Question 9?"])


def test_heldout_pairs_may_come_from_another_folder(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", rows(3))
    write_jsonl(tmp_path / "several" / "train.jsonl", [row(7)])
    write_jsonl(tmp_path / "several" / "test.jsonl", [row(8)])
    write_jsonl(tmp_path / "single" / "test.jsonl", [row(9)])
    assert split(source, heldout=str(tmp_path / "several"))[1] == ["Question 7?"]
    assert split(source, heldout=str(tmp_path / "single"))[1] == ["Question 9?"]


def test_a_misspelt_split_gets_a_suggestion(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(3))
    write_jsonl(tmp_path / "test.jsonl", rows(3))
    with pytest.raises(DataError, match=r"no split 'tset' \(did you mean 'test'\?\)"):
        split(tmp_path, heldout="tset")


def test_a_missing_heldout_file_is_named(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", rows(3))
    with pytest.raises(DataError, match=r"no such file or folder: 'gone\.jsonl'"):
        split(source, heldout="gone.jsonl")


def test_training_and_heldout_pairs_must_differ(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(3))
    with pytest.raises(ConfigurationError, match="would be the training pairs"):
        split(tmp_path, heldout="train")
    source = str(tmp_path / "train.jsonl")
    with pytest.raises(ConfigurationError, match="is the source of the training pairs"):
        split(source, heldout=source)


def test_a_share_of_the_heldout_split_itself_can_be_held_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "heldout.jsonl", rows(10))
    training, heldout = split(tmp_path, split="heldout")
    assert (len(training), len(heldout)) == (9, 1)


def test_training_pairs_can_be_limited_and_heldout_pairs_stay(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", rows(20))
    everything, heldout = split(source)
    limited, heldout_again = split(source, pairs=5)
    assert limited == everything[:5]
    assert heldout_again == heldout
    assert split(source, pairs=500)[0] == everything


@pytest.mark.parametrize("asked", ["train", "train_prefs"])
def test_the_test_split_of_the_same_ending_is_held_out(tmp_path: Path, asked: str) -> None:
    parts = {"train_prefs": rows(4), "test_prefs": [row(9)], "test_sft": [row(8)]}
    saved = {name: datasets.Dataset.from_list(part) for name, part in parts.items()}
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "saved"))
    training, heldout = load_split_pairs(str(tmp_path / "saved"), Data(split=asked))
    assert prompts(training) == [f"Question {number}?" for number in range(4)]
    assert prompts(heldout) == ["Question 9?"]
    assert training.description.endswith("held out: split test_prefs")
    with pytest.raises(ConfigurationError, match="would be the training pairs"):
        split(tmp_path / "saved", split=asked, heldout="train_prefs")


def test_a_subset_is_of_the_training_source_alone(tmp_path: Path) -> None:
    for name, number in (("a", 1), ("b", 3)):
        write_jsonl(tmp_path / "all" / name / "train.jsonl", [row(number), row(number + 1)])
        write_jsonl(tmp_path / "all" / name / "test.jsonl", [row(number + 10)])
    other = write_jsonl(tmp_path / "other" / "heldout.jsonl", [row(99)])
    folder = tmp_path / "all"
    assert split(folder, subset="b", heldout="test")[1] == ["Question 13?"]
    assert split(folder, subset="a", heldout=str(Path(other).parent)) == (
        ["Question 1?", "Question 2?"],
        ["Question 99?"],
    )
    assert len(split(folder, heldout="test")[0]) == 4


def test_what_was_decided_and_how_often_pairs_repeat_is_told(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [row(1), row(2), row(1), row(3), row(1, margin=2)])
    other = write_jsonl(tmp_path / "b.jsonl", [row(9)])
    training, heldout = load_split_pairs(source, Data(heldout=other))
    assert (training.duplicates, heldout.duplicates) == (2, 0)
    assert training.description == f"prompt: column 'prompt'; margin: margin; held out: {other}"
    assert load_split_pairs(source, Data(heldout=other, pairs=2))[0].duplicates == 0
