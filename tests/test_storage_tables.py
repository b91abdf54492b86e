"""Tables on disk."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.storage import read_parquet, write_csv, write_parquet

TABLE = pd.DataFrame({"name": ["a", "ü"], "value": [1.5, float("nan")]})


def test_parquet_gives_back_what_was_written(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet", TABLE)
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "t.parquet"), TABLE)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    write_parquet(file, pd.DataFrame({"value": [float(x) ** 0.5 for x in range(1000)]}))
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(EnvironmentProblem, match=r"t\.parquet is missing or damaged"):
        read_parquet(file)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"none\.parquet"):
        read_parquet(tmp_path / "none.parquet")


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx"])
def test_csv_cells_cannot_be_formulas(tmp_path: Path, text: str) -> None:
    write_csv(tmp_path / "t.csv", pd.DataFrame({"error": [text, "fine"], "value": [-1.0, 2.0]}))
    back = pd.read_csv(tmp_path / "t.csv")
    assert back["error"].tolist() == ["'" + text, "fine"]
    assert back["value"].tolist() == [-1.0, 2.0]
