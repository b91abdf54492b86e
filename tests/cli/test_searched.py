"""A sweep that finds its strengths, through the real command line: resumed, grown, killed."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dpo_bench.storage import read_parquet
from tests.cli.command import QUICK, dpo_bench_here, results
from tests.cli.test_interruptions import running

KLS = (0.003, 0.008)
WITHIN = 0.25


@pytest.fixture(scope="module")
def arguments(llama_folder: Path, pairs_file: Path) -> list[str]:
    """Two losses to be brought to two KLs by a model of seconds, and repeated with another seed."""
    return [
        *("sweep", "--policy", str(llama_folder), "--preferences", str(pairs_file)),
        *("--losses", "dpo,ipo", *QUICK, "--set=training.steps=6"),
        *(f"--set=search.kl={list(KLS)}", f"--set=search.within={WITHIN}"),
        *("--set=search.seeds=[2, 2]", "--workers", "2"),
    ]


@pytest.fixture(scope="module")
def whole(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep, not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    dpo_bench_here(*arguments, "--out", out)
    return out


def found(out: Path) -> dict[str, Any]:
    return json.loads((out / "search.json").read_text("utf-8"))  # type: ignore[no-any-return]


def artefacts(out: Path) -> dict[str, bytes]:
    """Every file of every trial but the manifests, which have times."""
    files = [file for file in out.glob("trials/*/*") if file.name != "manifest.json"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def assert_same(out: Path, whole: Path) -> None:
    assert found(out) == found(whole)
    assert artefacts(out) == artefacts(whole)
    assert not list(out.glob("checkpoints/*.pt"))


def test_what_counts_as_met_is_what_was_measured(whole: Path) -> None:
    """By the table of results alone: the KL of the setting named, with both seeds."""
    table = results(whole).set_index("trial")
    for series in found(whole)["series"]:
        assert len(series["targets"]) == len(KLS)
        for target in series["targets"]:
            if target["trial"] is None:
                assert target["why"]
                continue
            measured = table.loc[target["trial"], "kl"]
            assert abs(measured - target["kl"]) <= WITHIN * target["kl"]
            again = table[(table["loss"] == series["loss"]) & (table["seed"] == 1)]
            assert table.loc[target["trial"], "beta"] in set(again["beta"])
        assert set(series["path"]) <= set(table.index)
    assert any(one["trial"] for series in found(whole)["series"] for one in series["targets"])


def test_the_same_command_computes_nothing_again(arguments: list[str], whole: Path) -> None:
    before = artefacts(whole)
    done = dpo_bench_here(*arguments, "--out", whole)
    assert f"{len(found(whole)['trials'])} trials, 0 computed now" in done.stdout
    assert artefacts(whole) == before


@pytest.mark.slow
def test_one_worker_comes_to_the_same_trials(
    arguments: list[str], whole: Path, tmp_path: Path
) -> None:
    dpo_bench_here(*arguments[:-1], "1", "--out", tmp_path / "out")
    assert_same(tmp_path / "out", whole)


@pytest.mark.slow
def test_a_sweep_grows_by_seeds_kls_and_losses(
    arguments: list[str], whole: Path, tmp_path: Path
) -> None:
    """What was there stays as it is, and all of it still counts."""
    out = tmp_path / "out"
    dpo_bench_here(*arguments, "--out", out)
    before = found(out)
    more = [one for one in arguments if "search" not in one]
    more[more.index("dpo,ipo")] = "dpo,ipo,hinge"
    kls = [KLS[0], 0.005, KLS[1]]
    grown = [f"--set=search.kl={kls}", f"--set=search.within={WITHIN}", "--set=search.seeds=[3]"]
    dpo_bench_here(*more, *grown, "--out", out)
    after = found(out)
    assert set(before["trials"]) <= set(after["trials"])
    assert {name: one for name, one in artefacts(out).items() if name in artefacts(whole)} == (
        artefacts(whole)
    )
    assert [one["key"] for one in after["series"]] == ["dpo", "ipo", "hinge"]
    assert after["seeds"] == [0, 1, 2]


def kill_after(arguments: list[str], out: Path, seconds: float) -> bool:
    """Start the sweep and kill all of it after so long; whether it had ended before."""
    with running(arguments, out) as process:
        try:
            _, message = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        assert process.returncode == 0, message
        return True


@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_it_ends_with_the_same_trials_and_bytes(
    arguments: list[str], whole: Path, tmp_path: Path, kills: int
) -> None:
    """Kills fall where something is done: after what it takes to start, up to a few trials on."""
    out = tmp_path / "out"
    draw = random.Random(kills)
    slowly = [*arguments, "--set=training.checkpoint_seconds=0"]
    for _ in range(kills):
        if kill_after(slowly, out, draw.uniform(4, 8)):
            break
    dpo_bench_here(*slowly, "--out", out)
    assert_same(out, whole)
    assert len(read_parquet(out / "results.parquet")) == len(found(out)["trials"])
