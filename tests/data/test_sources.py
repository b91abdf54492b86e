from __future__ import annotations

from pathlib import Path

import pytest

from dpo_bench.data.sources import (
    has_heldout_split,
    looks_like_source,
    read_rows,
    source_splits,
)
from dpo_bench.errors import DataError
from tests.data.build import rows, write_jsonl


def test_a_file_is_read_whole_whatever_the_split(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "pairs.jsonl", rows(3))
    assert list(read_rows(source, "test").records) == rows(3)
    assert source_splits(source) == ()
    assert not has_heldout_split(source)


def test_a_folder_is_read_by_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(3))
    write_jsonl(tmp_path / "heldout.jsonl", rows(2))
    assert len(read_rows(f"{tmp_path}/", "heldout")) == 2
    assert source_splits(str(tmp_path)) == ("heldout", "train")
    assert has_heldout_split(str(tmp_path))


def test_the_home_folder_may_be_written_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "pairs.jsonl", rows(3))
    assert len(read_rows("~/pairs.jsonl", "train")) == 3


@pytest.mark.parametrize(
    "source", ["nowhere.jsonl", "no/where.csv", "./folder", "a/b/c", "/no", "", "../x", "a b", "~"]
)
def test_a_path_that_does_not_exist_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=f"no such file or folder: '{source}'"):
        read_rows(source, "train")


@pytest.mark.parametrize(
    ("name", "is_source"),
    [("a.jsonl.gz", True), ("a.TSV", True), ("x/y", True), ("test", False), ("train.v2", False)],
)
def test_a_name_that_can_only_be_a_source(name: str, is_source: bool) -> None:
    assert looks_like_source(name) is is_source
