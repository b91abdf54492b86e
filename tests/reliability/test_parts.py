"""Short forms of `benchmarks.reliability`, each a program of its own, which forks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability.faults import can_fail
from benchmarks.reliability.page import write_page

pytestmark = pytest.mark.slow


def part(name: str, out: Path, count: int, seed: int = 1) -> dict[str, Any]:
    """What a part finds in few attempts."""
    command = [sys.executable, "-m", "benchmarks.reliability", name]
    options = ["--minutes", "4", "--count", str(count), "--seed", str(seed), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    assert (
        f"`python -m benchmarks.reliability {name} --minutes 4" in (out / "README.md").read_text()
    )
    return found


def test_damage_is_noticed_and_mended(tmp_path: Path) -> None:
    found = part("damage", tmp_path, 24)
    assert found["tried"] >= 24
    assert found["noticed"] + found["harmless"] == found["tried"]
    assert [one["wrong"] for one in found["kinds"].values() if one["wrong"]] == []
    assert found["mended"] == found["tried"]


@pytest.mark.skipif(not can_fail(), reason="needs Linux and a C compiler")
def test_killed_sweeps_end_as_others_do(tmp_path: Path) -> None:
    found = part("kill", tmp_path, 6)
    assert found["kills"] >= 6
    assert found["wrong"] == []
    assert found["equal"] == found["sweeps"] > 0


@pytest.mark.skipif(not can_fail(), reason="needs Linux and a C compiler")
def test_a_failing_disk_is_told_and_gone_on_from(tmp_path: Path) -> None:
    found = part("disk", tmp_path, 8)
    assert found["points"] > 500
    assert found["tried"] == found["resumed"] == 8
    assert [one["wrong"] for one in found["operations"].values() if one["wrong"]] == []


def test_of_many_at_once_one_works_or_all_apart(tmp_path: Path) -> None:
    found = part("together", tmp_path, 3)["settings"]
    assert found["one folder"]["wrong"] == found["one cold cache"]["wrong"] == []
    assert found["one folder"]["codes"].get("0", 0) >= 1
    assert found["one cold cache"]["codes"] == {"0": 3}


def test_what_was_not_as_wished_stands_on_the_page(tmp_path: Path) -> None:
    record = {
        "command": "c", "machine": "m", "seconds": 60.0, "kills": 2, "sweeps": 2, "equal": 1,
        "how": {"fsync": 2}, "phases": {"trials": 2}, "wrong": ["trial x was done again"],
    }  # fmt: skip
    (tmp_path / "kill.json").write_text(json.dumps(record))
    write_page(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "2 kills in 2 sweeps, each then run to its end: 1 had every trial once" in page
    assert "Not as wished, 1:\n\n- trial x was done again" in page
