"""``dpo-bench cache``: through the real command line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dpo_bench.cache import kept, release_all
from tests.cli.command import dpo_bench_here


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("old", "new"):
        folder = kept("pairs", name, lambda new: (new / "text").write_text("x" * 2_000_000)).folder
        if name == "old":
            os.utime(folder, (time.time() - 40 * 86400,) * 2)
    release_all()


def test_what_is_kept_is_listed() -> None:
    said = dpo_bench_here("cache", "list").stdout
    (line,) = (line for line in said.splitlines() if "pairs" in line)
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    assert cells[:4] == ["pairs", "2", "4.0", time.strftime("%Y-%m-%d")]


def test_damage_is_named_and_pruned(tmp_path: Path) -> None:
    assert "2 entries, every file as it was written" in dpo_bench_here("cache", "check").stdout
    (tmp_path / "cache" / "pairs" / "new" / "text").write_text("y")
    said = dpo_bench_here("cache", "check", code=1).stdout
    assert f"DAMAGED: {tmp_path / 'cache' / 'pairs' / 'new'} (text)" in said
    assert "removed 1 entry" in dpo_bench_here("cache", "prune", "--damaged").stdout
    dpo_bench_here("cache", "check")
    assert [path.name for path in (tmp_path / "cache" / "pairs").iterdir()] == ["old"]


def test_what_is_old_goes_and_all_goes_when_asked(tmp_path: Path) -> None:
    pairs = tmp_path / "cache" / "pairs"
    assert "removed 1 entry, 2.0 MB" in dpo_bench_here("cache", "prune", "--older-than", 30).stdout
    assert [path.name for path in pairs.iterdir()] == ["new"]
    assert "removed 0 entries" in dpo_bench_here("cache", "prune", "--older-than", 30).stdout
    dpo_bench_here("cache", "prune", "--all")
    assert list(pairs.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--all", "--damaged"], ["--older-than=1", "--all"]])
def test_one_thing_is_to_be_asked_for(options: list[str]) -> None:
    assert "give one of" in dpo_bench_here("cache", "prune", *options, code=2).stderr
