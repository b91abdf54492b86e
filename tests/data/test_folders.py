from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from dpo_bench.data.folders import folder_splits, has_heldout, read_folder
from dpo_bench.errors import DataError
from tests.data.build import row, rows, write_jsonl


def read(folder: Path, split: str) -> list[dict[str, object]]:
    return [dict(record) for record in read_folder(folder, folder.name, split).records]


def test_a_file_named_like_the_split_is_that_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(4))
    write_jsonl(tmp_path / "heldout.jsonl", rows(2))
    assert read(tmp_path, "train") == rows(4)
    assert read(tmp_path, "heldout") == rows(2)
    assert folder_splits(tmp_path, "data") == ("heldout", "train")
    assert has_heldout(tmp_path, "data")


def test_other_files_beside_them_are_no_bother(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(4))
    write_jsonl(tmp_path / "heldout.jsonl", rows(2))
    (tmp_path / "manifest.json").write_text('{"made": "by somebody"}')
    (tmp_path / "README.md").write_text("# Data\n")
    assert read(tmp_path, "train") == rows(4)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(4))
    pd.DataFrame(rows(4)).to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(DataError, match=r"train\.csv and train\.jsonl could be the split 'train'"):
        read(tmp_path, "train")


def test_shards_in_the_hub_s_layout_are_joined_in_order(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for shard in range(2):
        frame = pd.DataFrame([row(2 * shard), row(2 * shard + 1)])
        frame.to_parquet(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet")
    pd.DataFrame([row(9)]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert read(tmp_path, "train") == rows(4)
    assert read(tmp_path, "test") == [row(9)]
    assert folder_splits(tmp_path, "data") == ("test", "train")
    places = read_folder(tmp_path, "prefs", "train").places
    assert str(places[2]) == "prefs/data/train-00001-of-00002.parquet, row 1"


def test_the_readme_of_a_dataset_names_its_splits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(3))
    write_jsonl(tmp_path / "b.jsonl", [row(7)])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: a.jsonl\n  - split: heldout\n    path: b.jsonl\n---\n"
    )
    assert read(tmp_path, "train") == rows(3)
    assert read(tmp_path, "heldout") == [row(7)]
    assert folder_splits(tmp_path, "data") == ("heldout", "train")
    assert has_heldout(tmp_path, "data")


def test_files_whose_names_say_nothing_are_for_training_but_never_heldout(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "part-0.jsonl", rows(2))
    write_jsonl(tmp_path / "part-1.jsonl", [row(2), row(3)])
    write_jsonl(tmp_path / "heldout.jsonl", [row(9)])
    assert read(tmp_path, "train") == rows(4)
    assert read(tmp_path, "heldout") == [row(9)]


def test_a_corrupt_line_in_a_folder_is_named_with_its_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "part-0.jsonl", rows(2))
    (tmp_path / "part-1.jsonl").write_text('{"prompt": "a"')
    with pytest.raises(DataError, match=r"prefs/part-1\.jsonl, line 1: not valid JSON"):
        read_folder(tmp_path, "prefs", "train")


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(3)).save_to_disk(str(tmp_path / "one"))
    assert read(tmp_path / "one", "train") == rows(3)
    assert not has_heldout(tmp_path / "one", "one")


def test_a_saved_dict_of_datasets_has_its_splits(tmp_path: Path) -> None:
    saved = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_list(rows(3)),
            "heldout": datasets.Dataset.from_list([row(7)]),
        }
    )
    saved.save_to_disk(str(tmp_path / "two"))
    assert read(tmp_path / "two", "train") == rows(3)
    assert read(tmp_path / "two", "heldout") == [row(7)]
    assert folder_splits(tmp_path / "two", "two") == ("heldout", "train")
    assert has_heldout(tmp_path / "two", "two")
    with pytest.raises(DataError, match=r"no split 'hold'.*its splits: heldout, train"):
        read(tmp_path / "two", "hold")


def test_a_dataset_that_was_reordered_before_saving_keeps_its_order(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list(rows(5)).select([3, 1, 4])
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path / "saved", "train") == [row(3), row(1), row(4)]


def test_an_empty_saved_dataset_says_so(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(3)).select([]).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(DataError, match="none is empty: it was saved without a row"):
        read(tmp_path / "none", "train")


def test_a_damaged_saved_dataset_is_one_line(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(3)).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(DataError, match="saved is no readable saved dataset"):
        read(tmp_path / "saved", "train")


def test_a_misspelt_split_gets_a_suggestion(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(2))
    message = r"no split 'trian' \(did you mean 'train'\?\); its splits: train"
    with pytest.raises(DataError, match=message):
        read(tmp_path, "trian")


def test_a_folder_without_data_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="holds no file of preference data"):
        read(tmp_path, "train")


def test_data_that_changes_between_two_readings_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "data" / "train-00000-of-00001.jsonl"
    write_jsonl(path, rows(2))
    assert read(tmp_path, "train") == rows(2)
    write_jsonl(path, rows(3))
    assert read(tmp_path, "train") == rows(3)


def write_shards(folder: Path, **splits: list[dict[str, object]]) -> None:
    """Two Parquet shards per split, named as on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, records in splits.items():
        for shard in range(2):
            part = pd.DataFrame(records[shard::2])
            part.to_parquet(folder / f"{split}-0000{shard}-of-00002.parquet")


def write_gzip(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in records).encode()))


@pytest.mark.parametrize("inside", ["", "data"])
def test_shards_of_splits_that_begin_alike_are_kept_apart(tmp_path: Path, inside: str) -> None:
    parts = {"train_prefs": rows(2), "train_sft": [row(5), row(6)], "test_prefs": [row(7), row(8)]}
    write_shards(tmp_path / inside, **parts)
    assert folder_splits(tmp_path, "uf") == ("test_prefs", "train_prefs", "train_sft")
    assert read(tmp_path, "train_sft") == [row(5), row(6)]
    found = read_folder(tmp_path, "uf", "train")  # of the two, the one called after preferences
    assert list(found.records) == rows(2)
    assert found.notes == ("split: train_prefs",)


def test_the_layout_of_hh_is_read_as_the_hub_reads_it_or_a_folder_of_it(tmp_path: Path) -> None:
    for number, name in enumerate(["harmless-base", "helpful-base"]):
        write_gzip(tmp_path / name / "train.jsonl.gz", [row(number)])
        write_gzip(tmp_path / name / "test.jsonl.gz", [row(number + 8)])
    whole = read_folder(tmp_path, "hh", "train")
    assert list(whole.records) == rows(2)
    assert str(whole.places[1]) == "hh/helpful-base/train.jsonl.gz, line 1"
    (note,) = whole.notes
    assert note.startswith("read together: the folders harmless-base, helpful-base")
    assert read(tmp_path / "helpful-base", "train") == [row(1)]
    subset = read_folder(tmp_path, "hh", "test", "harmless-base")
    assert list(subset.records) == [row(8)]
    assert str(subset.places[0]) == "hh/harmless-base/test.jsonl.gz, line 1"
    assert folder_splits(tmp_path, "hh", "helpful-base") == ("test", "train")


def test_of_several_configurations_one_is_to_be_named(tmp_path: Path) -> None:
    for name, number in (("a", 1), ("b", 2)):
        write_jsonl(tmp_path / f"{name}.jsonl", [row(number)])
    configs = "".join(f"- config_name: {x}\n  data_files: {x}.jsonl\n" for x in "ab")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(DataError, match=r"d has several configurations: a, b\..*data\.subset"):
        read_folder(tmp_path, "d", "train")
    assert list(read_folder(tmp_path, "d", "train", "b").records) == [row(2)]
    with pytest.raises(DataError, match=r"d has several configurations: a, b\."):
        read_folder(tmp_path, "d", "train", "c")


@pytest.mark.parametrize("where", ["train.jsonl", "data/train.jsonl", "x/train-00000-of-00001.csv"])
def test_a_script_beside_the_data_is_not_run(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "prefs"
    write_jsonl(folder / where, rows(2))
    if where.endswith(".csv"):
        pd.DataFrame(rows(2)).to_csv(folder / where, index=False)
    (folder / "prefs.py").write_text("raise SystemExit('was run')")
    assert read(folder, "train") == rows(2)
    assert not has_heldout(folder, "prefs")


def test_a_script_without_data_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "prefs.py").write_text("raise SystemExit('was run')")
    with pytest.raises(DataError, match="holds no file of preference data"):
        read(tmp_path, "train")


def test_folders_that_hold_everything_are_refused_without_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "people" / "ann"
    write_jsonl(home / "prefs" / "train.jsonl", rows(1))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("walked"))
    for folder in (Path("/"), Path("~").expanduser(), home.parent, home / "prefs" / ".."):
        for question in (folder_splits, has_heldout):
            with pytest.raises(DataError, match="but all of a home or a disk"):
                question(folder, "x")
    assert read(home / "prefs", "train") == rows(1)
