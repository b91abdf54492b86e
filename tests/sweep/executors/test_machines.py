"""How many workers, and of how many threads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.sweep.executors.machines import (
    SMALL,
    Machine,
    choose_threads,
    choose_workers,
)

GIGABYTE = 10**9


@pytest.fixture
def sources(tmp_path: Path) -> Any:
    """Where a model with one gigabyte of weights lies: a worker takes six of memory."""
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as stream:
        stream.truncate(GIGABYTE)  # a hole: it takes no room on the disk
    return SimpleNamespace(policy=SimpleNamespace(path=tmp_path), device="cpu")


def test_on_cpus_cores_memory_and_trials_are_limits(sources: Any) -> None:
    wide, full = Machine(8, 0, 100 * GIGABYTE), Machine(64, 0, 13 * GIGABYTE)
    assert choose_workers([wide], sources, trials=100) == 4, "of two threads each"
    assert choose_workers([full], sources, trials=100) == 2
    assert choose_workers([wide, full], sources, trials=100) == 6
    assert choose_workers([wide, full], sources, trials=3) == 3
    assert choose_workers([Machine(8, 0, GIGABYTE)], sources, trials=100) == 1


def test_what_workers_share_counts_once(sources: Any) -> None:
    """Of 10 bytes 4 are there for all: 22 hold them and three times the other 6."""
    for memory, workers in ((22, 3), (21, 2), (10, 1), (3, 1)):
        machine = Machine(8, 0, memory)
        assert choose_workers([machine], sources, trials=9, need=10, shared=4) == workers


def test_on_gpus_there_is_one_worker_for_each(sources: Any) -> None:
    sources.device = "cuda"
    cluster = [Machine(16, 0, GIGABYTE), Machine(64, 8, GIGABYTE), Machine(64, 4, GIGABYTE)]
    assert choose_workers(cluster, sources, trials=100) == 12
    assert choose_threads(cluster, sources, workers=12) == 128 // 12


def test_a_worker_of_several_gpus_takes_them_of_one_machine_where_one_has_them(
    sources: Any,
) -> None:
    sources.device = "cuda"
    cluster = [Machine(16, 2, GIGABYTE), Machine(64, 7, GIGABYTE), Machine(64, 0, GIGABYTE)]
    assert choose_workers(cluster, sources, trials=100, processes=2) == 1 + 3
    assert choose_workers(cluster, sources, trials=100, processes=7) == 1
    assert choose_workers(cluster, sources, trials=100, processes=8) == 1  # of both
    assert choose_workers([Machine(8, 1, 0)] * 6, sources, trials=100, processes=2) == 3
    with pytest.raises(EnvironmentProblem, match="per_trial = 10, and of GPUs there are 9 here"):
        choose_workers(cluster, sources, trials=100, processes=10)


def test_threads_share_the_cores_and_stay_on_one_machine(sources: Any) -> None:
    cluster = [Machine(4, 0, GIGABYTE), Machine(64, 0, GIGABYTE), Machine(0, 0, GIGABYTE)]
    assert choose_threads(cluster, sources, workers=34) == 2
    assert choose_threads(cluster, sources, workers=2) == 4
    assert choose_threads(cluster, sources, workers=1000) == 1
    assert choose_threads([], sources, workers=1) == 1


def test_a_large_model_takes_two_cores_or_all_that_there_are(sources: Any) -> None:
    for cores, workers, threads in ((1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 2), (64, 32, 2)):
        machines = [Machine(cores, 0, 1000 * GIGABYTE)]
        assert choose_workers(machines, sources, trials=100) == workers
        assert choose_threads(machines, sources, workers) == threads


def test_a_small_model_takes_one_thread(sources: Any, tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.truncate(SMALL - 1)
    assert choose_workers([Machine(8, 0, 100 * GIGABYTE)], sources, trials=100) == 8
    assert choose_threads([Machine(8, 0, GIGABYTE)], sources, workers=1) == 1
