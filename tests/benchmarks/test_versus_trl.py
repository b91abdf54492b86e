"""The side-by-side measures equal work, and its report says what was measured."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.contenders import Ours, Peer, PeerAtItsBest, peak_memory
from tests.benchmarks.report import load, write_report
from tests.benchmarks.workloads import WORKLOADS, Prepared, prepare, quick


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

    def contender(name: str, seconds: float) -> dict[str, object]:
        return {
            "contender": name,
            "processes": 1,
            "seconds_preparing": 0.5,
            "seconds_per_trial": seconds / 4,
            "seconds_total": seconds,
            "tokens_per_second": 1234.0,
            "peak_bytes": 3 * 2**20,
            "peak_bytes_over_imports": 2**20,
            "peak_bytes_of_a_process": 3 * 2**20,
            "peak_bytes_of_a_process_over_imports": 2**20,
            "final_losses": [0.5, 0.7],
        }

    comparison = {
        "workload": "b",
        "title": "Llama",
        "pairs": 32,
        "pairs_per_step": 4,
        "steps": 8,
        "trials": ["dpo beta=0.1"],
        "tokens_per_pair": 400.0,
        "contenders": [contender("dpo_bench", 2), contender("TRL", 8), contender("TRL best", 3)],
    }
    rungs = [
        {"rung": "naive", "milliseconds": 90.0},
        {"rung": "+ one", "milliseconds": 45.0},
        {"rung": "+ two", "gain": 1.25},
    ]
    ladder = {
        "workload": "b",
        "title": "Llama",
        "rungs": rungs,
        "matrix_product_gflops": 60.0,
        "floor_milliseconds": 27.0,
    }
    row = {
        "quantity": "pairs",
        "sizes": [1.0, 2.0],
        "time_exponent": 1.02,
        "memory_exponent": 1.0,
    }

    write_report(tmp_path, [comparison], [ladder], [row], cores=2)

    text = (tmp_path / "README.md").read_text()
    assert "**4.00 x** faster than TRL as it comes, **1.50 x** than at its best" in text
    assert "(aims: 3.5 x met, 2 x missed)" in text
    assert "| + one | 45.0 | 2.00 x |" in text
    assert "| + two | | 1.25 x |" in text
    assert "would take 27.0 ms at the 60 GFLOP/s that one thread reaches here: 60% of" in text
    assert "| pairs | 1 2 | 1.02 | 1.00 |" in text
    assert load(tmp_path)["comparisons"] == [comparison]


def test_the_peak_is_the_process_s_own() -> None:
    """A child of a process that was large once does not begin with its peak."""
    ballast = bytearray(400 * 2**20)
    ballast[:: 2**12] = bytes([1]) * len(ballast[:: 2**12])
    assert peak_memory() > len(ballast)
    code = "from tests.benchmarks.contenders import peak_memory; print(peak_memory())"

    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(child.stdout) < len(ballast)
