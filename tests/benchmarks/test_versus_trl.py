"""The side-by-side measures equal work, and its report says what was measured."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.versus_trl.contenders import Ours, Peer, PeerAtItsBest, peak_memory
from benchmarks.versus_trl.fusion import bench_of, fused, one_after_another
from benchmarks.versus_trl.machine import Bystanders
from benchmarks.versus_trl.report import load, write_report
from benchmarks.versus_trl.workloads import WORKLOADS, Prepared, prepare, quick


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))


def small(folder: Path) -> Prepared:
    """Twenty steps of four pairs of unlike lengths."""
    return prepare(replace(quick(WORKLOADS["b"]), steps=20, learning_rate=3e-3), folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Peer, PeerAtItsBest])
@pytest.mark.parametrize("loss", ["dpo", "hinge", "nca"])
def test_a_replay_of_trl_s_batches_has_its_losses_and_gradients(
    kind: type[Peer], loss: str, tmp_path: Path
) -> None:
    """The same pairs in the same steps in fp32: every step's loss and gradient norm."""
    pytest.importorskip("trl")
    prepared = small(tmp_path)

    ours = Ours(prepared).trial(loss, 0.5)
    theirs = kind(prepared).trial(loss, 0.5, log_every=1)

    assert len(ours.losses) == len(theirs.losses) == 20
    assert abs(ours.losses[-1] - ours.losses[0]) > 1e-3, "it learns, so the steps depend on another"
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4, abs=1e-4)
    assert ours.gradient_norms == pytest.approx(theirs.gradient_norms, rel=1e-4)


def test_the_report_shows_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("trl")  # the report gives its version

    def contender(name: str, seconds: float, memory: int = 1) -> dict[str, Any]:
        return {
            "contender": name,
            "processes": 1,
            "seconds_preparing": 0.5,
            "seconds_per_trial": seconds / 4,
            "seconds_total": seconds,
            "tokens_per_second": 1234.0,
            "peak_bytes": 3 * 2**20,
            "peak_bytes_over_imports": memory * 2**20,
            "peak_bytes_of_a_process": 3 * 2**20,
            "peak_bytes_of_a_process_over_imports": 2**20,
            "final_losses": [0.5, 0.7],
        }

    comparison: dict[str, Any] = {
        "workload": "b",
        "title": "Llama",
        "pairs": 32,
        "pairs_per_step": 4,
        "steps": 8,
        "trials": ["dpo beta=0.1"],
        "tokens_per_pair": 400.0,
        "share_of_bystanders": 0.03,
        "contenders": [
            contender("dpo_bench", 2, memory=3),
            contender("dpo_bench, one process", 4),
            contender("TRL", 8, memory=4),
            contender("TRL best", 3, memory=10),
        ],
    }
    rungs = [
        {"rung": "naive", "milliseconds": 90.0},
        {"rung": "+ one", "milliseconds": 45.0},
        {"rung": "+ two", "gain": 1.25},
    ]
    ladder: dict[str, Any] = {
        "workload": "b",
        "title": "Llama",
        "rungs": rungs,
        "matrix_product_gflops": 60.0,
        "floor_milliseconds": 27.0,
    }
    row: dict[str, Any] = {
        "quantity": "pairs",
        "sizes": [1.0, 2.0],
        "time_exponent": 1.02,
        "memory_exponent": 1.0,
    }

    fusion: dict[str, Any] = {
        "workload": "b",
        "title": "Llama",
        "rows": [{"variants": 4, "in_turn": 60.0, "at_once": 50.0}],
    }
    found = {
        "comparisons": [comparison],
        "ladders": [ladder],
        "fusions": [fusion],
        "growth": [row],
    }

    write_report(tmp_path, found, cores=2)

    text = (tmp_path / "README.md").read_text()
    assert "**4.00 x** faster than TRL as it comes, **1.50 x** than at its best" in text
    assert "(aims: 3.5 x met, 2 x missed)" in text
    assert "| + one | 45.0 | 2.00 x |" in text
    assert "| + two | | 1.25 x |" in text
    assert "would take 27.0 ms at the 60 GFLOP/s that one thread reaches here: 60% of" in text
    assert "0.25 of TRL's as it comes and 0.10 of TRL's at its best for one process" in text
    assert "0.75 and 0.30 for all of its sweep's. Others' share of the processors mean" in text
    assert "| (b) Llama | 4 | 60 | 50 | 1.20 x |" in text
    assert "| pairs | 1 2 | 1.02 | 1.00 |" in text
    assert load(tmp_path)["comparisons"] == [comparison]


def test_the_peak_is_the_process_s_own() -> None:
    """A child of a process that was large once does not begin with its peak."""
    ballast = bytearray(400 * 2**20)
    ballast[:: 2**12] = bytes([1]) * len(ballast[:: 2**12])
    assert peak_memory() > len(ballast)
    code = "from benchmarks.versus_trl.contenders import peak_memory; print(peak_memory())"

    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(child.stdout) < len(ballast)


def test_variants_at_once_make_the_step_that_they_make_in_turn(tmp_path: Path) -> None:
    bench = bench_of(small(tmp_path))
    in_turn, at_once = one_after_another(bench, 3), fused(bench, 3)

    for _ in range(3):
        expected = [float(norm) for norm in in_turn()]
        assert [float(norm) for norm in at_once()] == pytest.approx(expected, rel=1e-5)
    assert len(set(expected)) == 3


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="the system does not tell")
def test_who_works_beside_is_noticed() -> None:
    bystanders = Bystanders()
    # The shell ends at once, and what it leaves behind is no child of this process.
    code = "import time; end = time.time() + 1\nwhile time.time() < end: pass"
    subprocess.run(["sh", "-c", f"{shlex.join([sys.executable, '-c', code])} &"], check=True)
    time.sleep(1.0)

    share = bystanders.share()

    assert share is not None
    assert 0.2 / (os.cpu_count() or 1) < share <= 1.0
