"""Two processes train as one does: a real run over gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dpo_bench.errors import ConfigurationError
from dpo_bench.training.distributed import Ranks

LOSSES = ["dpo", "aot", "bco", "wpo(tdpo1)"]
SETTINGS: dict[str, Any] = {"steps": 3, "pairs_per_step": 7, "pairs_per_pass": 2}
"""Seven pairs for two processes: the shares are unequal."""


def launch(rank: int, size: int, port: int, folder: Path, out: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.training.one_rank", str(folder), str(out)]
    command += [json.dumps(SETTINGS), *LOSSES]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.slow
def test_two_processes_equal_one(llama_folder: Path, tmp_path: Path) -> None:
    port = free_port()
    one = launch(0, 1, port, llama_folder, tmp_path / "alone")
    two = [launch(rank, 2, port, llama_folder, tmp_path / "pair") for rank in range(2)]
    for process in (one, *two):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    for name in LOSSES:
        alone = torch.load(tmp_path / "alone" / f"{name}-0.pt", weights_only=True)
        first, second = (
            torch.load(tmp_path / "pair" / f"{name}-{rank}.pt", weights_only=True)
            for rank in range(2)
        )
        assert torch.equal(first["weights"], second["weights"]), name
        assert torch.equal(first["metrics"], second["metrics"]), name
        assert first["state"] == second["state"]
        assert not torch.allclose(alone["weights"], alone["initial"], atol=1e-4)
        assert torch.allclose(alone["weights"], first["weights"], atol=1e-5), name
        assert torch.allclose(alone["metrics"], first["metrics"], rtol=1e-3, atol=1e-4), name
        assert alone["state"] == pytest.approx(first["state"], rel=1e-3, abs=1e-4)
    leaders = sorted(path.name for path in (tmp_path / "pair").glob("*.checkpoint"))
    assert leaders == sorted(f"{name}-0.checkpoint" for name in LOSSES)


def test_shares_cover_a_step_once() -> None:
    indices = [5, 3, 9, 9, 1]
    shares = [Ranks(rank, 3).share(indices) for rank in range(3)]
    assert shares == [[5, 9], [3, 1], [9]]
    places = [Ranks(rank, 3).place(5) for rank in range(3)]
    assert places == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_step_needs_a_pair_for_each_process() -> None:
    with pytest.raises(ConfigurationError, match="pairs_per_step = 2 is less than the 3"):
        Ranks(0, 3).share([1, 2])


def test_alone_nothing_is_exchanged() -> None:
    values = torch.ones(3)
    ranks = Ranks.current()
    assert ranks == Ranks(0, 1)
    assert ranks.total(values) is values
    assert ranks.gather(values, 3) is values
    assert ranks.any(flag=True)
