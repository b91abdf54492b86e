"""Two processes train as one does: a real run over gloo."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dpo_bench.errors import ConfigurationError
from dpo_bench.training.distributed import Ranks, join_from_environment

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


def exchange(rank: int, port: int, file: Path) -> None:
    """One of two processes, each with numbers of its own; writes what it came to know."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = join_from_environment()
    mine = torch.tensor([1.0, 10.0]) * (rank + 1)
    total = ranks.total(mine)
    known = torch.nn.Parameter(torch.zeros(2, 2))
    known.grad = torch.full((2, 2), 1.0 + rank)
    half = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    half.grad = torch.arange(3.0, dtype=torch.float64)
    on_one_only = torch.nn.Parameter(torch.zeros(2))
    if rank == 1:
        on_one_only.grad = torch.tensor([5.0, 7.0])
    frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    parameters = [known, half, on_one_only, frozen]
    ranks.sum_gradients(parameters)
    said = {
        "ranks": [ranks.rank, ranks.size, ranks.leads],
        "total": total.tolist(),
        "mine": mine.tolist(),
        "gathered": ranks.gather(torch.arange(3.0 - rank) + 10 * rank, 5).tolist(),
        "gradients": [None if one.grad is None else one.grad.tolist() for one in parameters],
        "any": [ranks.any(flag) for flag in (False, rank == 0, rank == 1, True)],
    }
    file.write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


def test_two_processes_exchange_sums_shares_and_flags(tmp_path: Path) -> None:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch"])
    port, files = free_port(), [tmp_path / str(rank) for rank in range(2)]
    both = [server.Process(target=exchange, args=(rank, port, files[rank])) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    for rank, file in enumerate(files):
        said = json.loads(file.read_text())
        assert said["ranks"] == [rank, 2, rank == 0]
        assert said["total"] == [3.0, 30.0]
        assert said["mine"] == [1.0 * (rank + 1), 10.0 * (rank + 1)], "left as it was"
        assert said["gathered"] == [0.0, 1.0, 2.0, 10.0, 11.0]
        assert said["gradients"] == [[[3.0, 3.0], [3.0, 3.0]], [0.0, 2.0, 4.0], [5.0, 7.0], None]
        assert said["any"] == [False, True, True, True]


def test_alone_no_group_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (None, "1"):
        if size is not None:
            monkeypatch.setenv("WORLD_SIZE", size)
        assert join_from_environment() == Ranks(0, 1)
        assert not torch.distributed.is_initialized()
