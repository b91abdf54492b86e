"""A sweep whose files, or whose cache, were damaged: noticed, told, done again; nothing else is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.command import QUICK, dpo_bench, dpo_bench_here, results
from tests.sealing import as_older

Run = Callable[..., str]
TIMES = ["train_seconds", "evaluation_seconds"]


@pytest.fixture(scope="module")
def whole(
    llama_folder: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[str]]]:
    """A finished sweep of two trials with its cache, and the command that made it."""
    root = tmp_path_factory.mktemp("whole")
    before = os.environ["DPO_BENCH_CACHE"]
    os.environ["DPO_BENCH_CACHE"] = str(root / "cache")
    command = [
        *("sweep", "--policy", str(llama_folder), "--preferences", str(pairs_file)),
        *("--losses", "dpo", "--beta", "0.1,0.5", "--reward", "vader", *QUICK),
    ]
    dpo_bench(*command, "--out", root / "out")
    yield root, command
    os.environ["DPO_BENCH_CACHE"] = before


@pytest.fixture
def copy(whole: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same where it can be damaged; its parent holds no other sweep."""
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    shutil.copytree(whole[0] / "cache", tmp_path / "cache")
    return Path(shutil.copytree(whole[0] / "out", tmp_path / "runs" / "out"))


@pytest.fixture
def again(whole: tuple[Path, list[str]], copy: Path) -> Run:
    """Runs the same command and gives what it said; its table must be what it was."""

    def run(code: int = 0, by: Callable[..., Any] = dpo_bench_here) -> str:
        said = by(*whole[1], "--out", copy, code=code)
        assert "Traceback" not in said.stderr
        if code == 0:
            expected = results(whole[0] / "out").drop(columns=TIMES)
            pd.testing.assert_frame_equal(results(copy).drop(columns=TIMES), expected)
        return " ".join(said.stderr.split()) + " ".join(said.stdout.split())

    return run


def verified(copy: Path, code: int) -> list[str]:
    said = dpo_bench_here("status", copy, "--verify", code=code).stdout
    return [line.removeprefix("DAMAGED: ") for line in said.splitlines() if "DAMAGED: /" in line]


def flip(file: Path) -> Path:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    return file


def test_every_file_is_covered_and_only_what_is_damaged_is_done_again(
    copy: Path, again: Run
) -> None:
    assert verified(copy, 0) == []
    first, second = sorted((copy / "trials").iterdir())
    stays = second / "samples.parquet"
    stamp = stays.stat().st_ino
    names = (
        *("experiment.json", "results.parquet", "results.csv", "opponents.parquet", "report.html"),
        *("report.md", "summary.txt", "figures/heat_map.png", "reference/samples.parquet"),
        f"trials/{first.name}/evaluation.json",
    )
    damaged = [flip(copy / name) for name in names]
    assert set(verified(copy, 1)) == set(map(str, damaged))
    said = again()
    assert "2 trials, 1 computed now" in said
    assert f"trial {first.name}: evaluation.json is damaged; done again" in said
    assert "reference: samples.parquet is damaged; done again" in said
    assert "experiment.json is damaged: its copy is taken" in said
    for name in names[1:8]:
        assert f"{name} is damaged; written again" in said
    assert verified(copy, 0) == []
    assert stays.stat().st_ino == stamp
    assert "damaged" not in again()


def test_a_reference_alone_is_made_anew_without_a_trial(copy: Path, again: Run) -> None:
    flip(copy / "reference" / "own.parquet")
    said = again()
    assert "reference: own.parquet is damaged; done again" in said
    assert "2 trials, 0 computed now" in said
    assert verified(copy, 0) == []


def test_report_refuses_what_is_damaged_in_a_line(copy: Path) -> None:
    flip(copy / "results.parquet")  # can be made again of the trials
    dpo_bench_here("report", copy)
    file = flip(next(copy.glob("trials/*/samples.parquet")))
    said = dpo_bench_here("report", copy, code=3).stderr
    (line,) = (line for line in said.splitlines() if line.startswith("dpo-bench: "))
    assert str(file) in line
    assert "run the sweep again" in line


def test_a_damaged_cache_is_made_anew(copy: Path, again: Run, tmp_path: Path) -> None:
    shutil.rmtree(copy)
    kinds = ("pairs", "reference-logps", "reference-evaluations")
    for kind in kinds:
        entry = min((tmp_path / "cache" / kind).iterdir())
        flip(max(entry.iterdir(), key=lambda file: file.stat().st_size))
    said = dpo_bench_here("cache", "check", code=1).stdout
    assert said.count("DAMAGED: ") == 3
    said = again(by=dpo_bench)  # workers of this process have the cache that it began with
    assert said.count("in the cache is damaged") == 3
    assert said.count("made anew") == 3
    dpo_bench_here("cache", "check")


def test_a_folder_of_an_older_version_is_read_and_given_digests(copy: Path, again: Run) -> None:
    as_older(copy)
    said = dpo_bench_here("status", copy, "--verify").stdout
    assert "no digest (written by an older version): " in said
    for name in ("experiment.json", "reference", "results.parquet", "report.html"):
        assert name in said
    dpo_bench_here("report", copy)
    as_older(copy)
    said = again()
    assert "2 trials, 0 computed now" in said
    assert "damaged" not in said
    said = dpo_bench_here("status", copy, "--verify").stdout
    assert said.splitlines()[-1] == "every file is as it was written."


def test_a_changed_strength_in_an_older_manifest_is_noticed(copy: Path, again: Run) -> None:
    """It has no digest of its own; but its trial's identity says what it must be."""
    as_older(copy)
    file = min(copy.glob("trials/*/manifest.json"))
    manifest = json.loads(file.read_text())
    manifest["beta"] = 0.3
    file.write_text(json.dumps(manifest))
    said = again()
    assert f"trial {file.parent.name}: manifest.json is damaged; done again" in said
    assert "2 trials, 1 computed now" in said


def test_a_cache_that_cannot_be_is_one_line(copy: Path, again: Run, tmp_path: Path) -> None:
    shutil.rmtree(copy)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file where the folder should be")
    said = again(code=3, by=dpo_bench)
    assert "DPO_BENCH_CACHE puts it elsewhere" in said
    assert str(tmp_path / "cache") in said
