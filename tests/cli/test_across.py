"""``report A B --across``: several worlds in one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.analysis.test_across import world
from tests.cli.command import dpo_bench_here
from tests.report.sweep_folder import build
from tests.report.sweep_world import Sweep


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "reviews.csv", tmp_path / "news.csv"]
    for path, gain in zip(paths, (0.1, 0.3), strict=True):
        world({"dpo": 0.0, "ipo": gain, "a|b": 0.0}).to_csv(path, index=False)
    return paths


def test_it_prints_and_writes_the_table(tables: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = dpo_bench_here("report", *tables, "--across", "--kl", "1,2", "--out", out)
    assert "against dpo" in done.stdout
    table = pd.read_csv(out / "across.csv")
    assert table[["loss", "kl", "sweeps"]].values.tolist() == [
        ["ipo", 1.0, 2],
        ["ipo", 2.0, 2],
        ["a|b", 1.0, 2],
        ["a|b", 2.0, 2],
    ]
    assert table["verdict"].tolist()[:2] == ["better", "better"]
    text = (out / "across.md").read_text(encoding="utf-8")
    assert text.startswith("# Losses against dpo over 2 sweeps\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert {line.replace("\\|", "").count("|") for line in rows} == {12}


def sweep(folder: Path, *seeds: int) -> Path:
    return build(
        folder, Sweep(("dpo", "ipo"), 3, seeds, failed=(), prompts=48, reference_samples=8)
    )


def test_folders_of_sweeps_are_judged(tmp_path: Path) -> None:
    """Trials that lie in both folders would count twice."""
    first, copy = (sweep(tmp_path / name, 0, 1) for name in ("first", "copy"))
    other, out = sweep(tmp_path / "other", 2, 3), tmp_path / "out"
    dpo_bench_here("report", first, other, "--across", "--out", out)
    table = pd.read_csv(out / "across.csv")
    assert table[["loss", "against", "sweeps"]].values.tolist() == [["ipo", "dpo", 2]] * 3
    assert np.isfinite(table[["difference", "low", "high", "p"]]).all(axis=None)
    done = dpo_bench_here("report", first, copy, "--across", code=2)
    assert "would count twice" in done.stderr


@pytest.mark.parametrize("option", ["--from=x.csv", "--same-within=0.1", "--format=latex"])
def test_options_that_would_be_ignored_are_refused(option: str, tables: list[Path]) -> None:
    done = dpo_bench_here("report", *tables, "--across", option, code=2)
    assert "--across takes no" in done.stderr
