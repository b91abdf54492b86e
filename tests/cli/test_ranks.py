"""Sweeps whose trials take several processes each, on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.cli.command import QUICK, dpo_bench_here, results
from tests.cli.test_interruptions import (
    checkpoints,
    command_of,
    descendants,
    manifests,
    running,
    training_of,
    wait_until,
)

TWO = "--set=training.gpus_per_trial=2"
TIMES = ["train_seconds", "evaluation_seconds"]


@pytest.fixture
def arguments(llama_folder: Path, pairs_file: Path) -> list[str]:
    return [
        *("sweep", "--policy", str(llama_folder), "--preferences", str(pairs_file)),
        *("--reward", "vader", *QUICK),
    ]


def assert_close(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Equal but for the rounding of fp32, and for times."""
    for name in one.columns.drop(TIMES):
        if pd.api.types.is_numeric_dtype(one[name]):
            ours, theirs = (table[name].to_numpy(np.float64) for table in (one, other))
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5, err_msg=name)
        else:
            assert one[name].equals(other[name]), name


@pytest.mark.parametrize(
    "adapter", [(), pytest.param(("--set=training.lora.rank=2",), marks=pytest.mark.slow)]
)
def test_a_sweep_on_two_processes_a_trial_equals_that_on_one(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: tuple[str, ...]
) -> None:
    """Each with a cache of its own, so that the reference is evaluated by either."""
    asked = [*arguments, "--losses", "dpo,aot,kto", "--beta", "0.3", *adapter]
    tables, policies = [], []
    for name, more in (("one", ()), ("two", (TWO, "--workers", "1"))):
        monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / f"cache-{name}"))
        out = tmp_path / name / "out"
        dpo_bench_here(*asked, "--set=keep_policies=true", *more, "--out", out)
        tables.append(results(out))
        policies.append(sorted(out.glob("trials/*/policy")))
    assert list(tables[0]["status"]) == ["done"] * 3
    assert_close(*tables)
    assert [folder.parent.name for folder in policies[0]] == [
        folder.parent.name for folder in policies[1]
    ], "trials are the same ones, whatever they were computed on"
    for one, other in zip(*policies, strict=True):
        names = [sorted(file.name for file in folder.iterdir()) for folder in (one, other)]
        assert names[0] == names[1]
        for file in (*one.glob("*config.json"),):
            assert file.read_text() == (other / file.name).read_text()
        if not adapter:
            assert_same_model(one, other)


def assert_same_model(one: Path, other: Path) -> None:
    models: list[Any] = [AutoModelForCausalLM.from_pretrained(folder) for folder in (one, other)]
    states = [model.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_rank_is_a_failed_trial_that_goes_on_from_its_checkpoint(
    arguments: list[str], tmp_path: Path, rank: int
) -> None:
    asked = [
        *(*arguments, "--losses", "dpo", "--beta", "0.1", "--workers", "1"),
        *("--set=training.steps=80", "--set=training.checkpoint_seconds=0.2"),
    ]
    whole, out = tmp_path / "whole" / "out", tmp_path / "cut" / "out"
    dpo_bench_here(*asked, "--out", whole)
    with running([*asked, TWO], out) as process:
        wait_until(lambda: checkpoints(out))
        leaves = [pid for pid in descendants(process.pid) if not descendants(pid)]
        ranks = sorted(pid for pid in leaves if b"tracker" not in command_of(pid))
        assert len(ranks) == 2
        os.kill(ranks[rank], signal.SIGKILL)
        _, message = process.communicate(timeout=60)
        assert process.returncode == 1, message
        assert not any(Path(f"/proc/{pid}/exe").exists() for pid in ranks)
    assert "was killed by SIGKILL" in results(out)["error"][0]
    assert checkpoints(out)
    dpo_bench_here(*asked, TWO, "--out", out)
    assert len(manifests(out)) == 1
    log = training_of(out)
    assert list(log["step"]) == list(range(80))
    np.testing.assert_allclose(log["loss"], training_of(whole)["loss"], rtol=1e-3, atol=1e-4)


def test_a_sweep_under_a_launcher_equals_one_without(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*arguments, "--losses", "dpo,bco", "--beta", "0.3"]
    alone, out = tmp_path / "alone" / "out", tmp_path / "launched" / "out"
    dpo_bench_here(*asked, "--out", alone)
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "dpo_bench", *asked, "--out", str(out)]
    for computed in (2, 0):  # the second time there is nothing to do, and all end
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert f"2 trials, {computed} computed now" in done.stdout
    assert_close(results(alone), results(out))


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("reaches", ["all", "the launcher"])
def test_a_launcher_that_is_stopped_saves_what_its_processes_are_at(
    arguments: list[str], tmp_path: Path, stop: signal.Signals, reaches: str
) -> None:
    """Slurm sends its signal to all processes, and the launcher passes on what it gets itself."""
    asked = [*arguments, "--losses", "dpo", "--beta", "0.1", "--set=training.steps=80"]
    whole, out = tmp_path / "whole" / "out", tmp_path / "cut" / "out"
    dpo_bench_here(*asked, TWO, "--workers", "1", "--out", whole)
    more = ["--set=training.checkpoint_seconds=0.2", "--out", str(out)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "dpo_bench", *asked, *more]
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: checkpoints(out), 120)
        processes = [launcher.pid, *descendants(launcher.pid)]
        for process in processes if reaches == "all" else processes[:1]:
            os.kill(process, stop)
        _, message = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert "dpo-bench: interrupted; the same command goes on from here." in message
    wait_until(lambda: not any(Path(f"/proc/{one}/exe").exists() for one in processes), 10)
    assert checkpoints(out)
    assert not manifests(out)
    saved = max(int(one.name.removeprefix("step-")) for one in checkpoints(out))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < saved < 80
    pd.testing.assert_frame_equal(training_of(out), training_of(whole), check_exact=True)


def test_ctrl_c_saves_what_several_processes_are_at(arguments: list[str], tmp_path: Path) -> None:
    asked = [*arguments, "--losses", "dpo", "--beta", "0.1", "--set=training.steps=80", TWO]
    out = tmp_path / "out"
    with running([*asked, "--set=training.checkpoint_seconds=0.2"], out) as process:
        wait_until(lambda: checkpoints(out))
        os.killpg(process.pid, signal.SIGINT)
        _, message = process.communicate(timeout=60)
        assert process.returncode == 130, message
    assert "Traceback" not in message
    assert checkpoints(out)
    assert not manifests(out)


def test_what_several_processes_cannot_do_is_refused(arguments: list[str], tmp_path: Path) -> None:
    done = dpo_bench_here(
        *(*arguments, TWO, "--set=training.reference_sync_steps=5", "--out", tmp_path), code=2
    )
    assert "gpus_per_trial and reference_sync_steps do not go together" in done.stderr
