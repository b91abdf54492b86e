"""What a machine of a cluster must have in common with the one where the sweep began."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.storage import cache_root
from dpo_bench.sweep.executors.ray_actor import MARKER, NodeEnvironment
from dpo_bench.sweep.versions import installed_versions


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeEnvironment:
    """Those of this machine, with nothing that must be seen."""
    monkeypatch.chdir(tmp_path)  # and back again, after the test
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "of this machine"))
    (tmp_path / "work").mkdir()
    return NodeEnvironment(tmp_path / "work", tmp_path / "cache", (), installed_versions())


def test_working_folder_and_cache_are_taken_up(
    environment: NodeEnvironment, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    replace(environment, seen=(tmp_path / "model",)).enter()
    assert Path.cwd() == (tmp_path / "work").resolve()
    assert cache_root() == tmp_path / "cache"


def test_a_path_that_is_not_shared_is_named(environment: NodeEnvironment, tmp_path: Path) -> None:
    before = os.environ["DPO_BENCH_CACHE"]
    absent = tmp_path / "model"
    with pytest.raises(
        EnvironmentProblem, match=f"{platform.node()} .* does not see {re.escape(str(absent))}:"
    ):
        replace(environment, seen=(absent,)).enter()
    # A folder of that name is there, but it is not the same one: what was just made in it is not.
    with pytest.raises(EnvironmentProblem, match=f"does not see {re.escape(str(tmp_path))}:"):
        replace(environment, seen=(tmp_path / f"{MARKER}xyz",)).enter()
    assert os.environ["DPO_BENCH_CACHE"] == before


def test_other_versions_are_refused(environment: NodeEnvironment) -> None:
    ours = environment.versions["torch"]
    other = {**environment.versions, "torch": "0.1"}
    with pytest.raises(EnvironmentProblem, match=f"has torch {re.escape(ours)}, and 0.1 is where"):
        replace(environment, versions=other).enter()
