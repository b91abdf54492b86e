"""Sweeps of machines with different processors: the same trials, and one report of both."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.command import QUICK, dpo_bench, dpo_bench_here, results

ASKED = (
    *("sweep", "--policy", "world:reviews", "--preferences", "world:reviews", "--beta", "0.1"),
    *("--reward", "vader", "--workers", "1", *QUICK),
)


def sweep(root: Path, losses: str) -> Path:
    """A sweep with nothing in the cache before it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPO_BENCH_CACHE", str(root / "cache"))
        dpo_bench(*ASKED, "--losses", losses, "--out", root / "out")
    return root / "out"


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "experiment.json").read_text("utf-8"))
    return found


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="torch has other instructions here")
def test_sweeps_of_two_processors_ask_the_same_and_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = sweep(tmp_path / "here", "dpo,ipo")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # torch's code for any x86-64 processor
    there = sweep(tmp_path / "there", "dpo,hinge")
    assert record(here)["conditions"] == record(there)["conditions"]
    assert "x86_64 DEFAULT" in record(there)["platform"]
    tables = [results(out).set_index("loss") for out in (here, there)]
    assert tables[0]["trial"]["dpo"] == tables[1]["trial"]["dpo"]
    assert tables[0]["kl"]["dpo"] == pytest.approx(tables[1]["kl"]["dpo"], rel=0.01)

    dpo_bench_here("report", here, there, "--out", tmp_path / "both")
    page = (tmp_path / "both" / "report.md").read_text("utf-8")
    assert "1 trial occurs in more than one sweep and counts once." in page
    assert "different machines or versions" in page
    assert set(pd.read_csv(tmp_path / "both" / "results.csv")["loss"]) == {"dpo", "ipo", "hinge"}
