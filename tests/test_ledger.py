"""Digests of files that are written anew, and records that are kept twice."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from dpo_bench.errors import DamagedError
from dpo_bench.ledger import Ledger, read_twice, write_twice
from dpo_bench.storage import write_parquet

TABLE = pd.DataFrame({"kl": [0.5, 1.5]})


def write(folder: Path, **files: str) -> Ledger:
    ledger = Ledger(folder)
    with ledger.writing(files):
        for name, text in files.items():
            (folder / name).write_text(text)
    return ledger


def test_files_are_whole_damaged_or_unfinished(tmp_path: Path) -> None:
    ledger = write(tmp_path, a="one", b="two")
    assert (sorted(ledger.digests()), ledger.damaged()) == (["a", "b"], [])
    (tmp_path / "a").write_text("half of it")
    with pytest.raises(ZeroDivisionError), ledger.writing(["a"]):
        raise ZeroDivisionError
    assert list(ledger.digests()) == ["b"], "a killed writer leaves no damage, but no digest either"
    assert ledger.damaged() == []
    (tmp_path / "b").write_text("twp")
    assert ledger.damaged() == ["b"]
    assert ledger.damaged(["a"]) == []
    (tmp_path / "b").unlink()
    assert ledger.damaged() == ["b"]
    with ledger.writing(["b"]):
        pass
    assert ledger.digests() == {}, "what was removed on purpose is forgotten"


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.writing(["t.parquet"]):
        write_parquet(tmp_path / "t.parquet", TABLE)
    pd.testing.assert_frame_equal(ledger.read_parquet("t.parquet"), TABLE)
    write_parquet(tmp_path / "t.parquet", TABLE + 1)
    with pytest.raises(DamagedError, match=r"t\.parquet is missing or damaged"):
        ledger.read_parquet("t.parquet")
    (tmp_path / "manifest.json").unlink()
    pd.testing.assert_frame_equal(ledger.read_parquet("t.parquet"), TABLE + 1)


def test_a_damaged_ledger_is_named_and_written_anew(tmp_path: Path) -> None:
    ledger = write(tmp_path, a="one")
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace('"a"', '"b"'))
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        ledger.damaged()
    write(tmp_path, c="three")
    assert list(ledger.digests()) == ["c"]


def test_a_record_is_there_as_long_as_one_of_two_is_whole(tmp_path: Path) -> None:
    file, copy = tmp_path / "experiment.json", tmp_path / "experiment.copy.json"
    with pytest.raises(FileNotFoundError):
        read_twice(file)
    write_twice(file, {"plan": {"kl": [1]}})
    assert file.read_bytes() == copy.read_bytes()
    file.write_text(file.read_text().replace("1", "2"))
    assert read_twice(file) == {"plan": {"kl": [1]}}
    file.unlink()
    assert read_twice(file) == {"plan": {"kl": [1]}}
    file.write_text("{")
    copy.write_text(json.dumps({"plan": {}}))
    with pytest.raises(DamagedError, match=r"experiment\.copy\.json"):
        read_twice(file)
    copy.unlink()
    with pytest.raises(DamagedError, match=r"experiment\.json"):
        read_twice(file)
