"""The states of a sweep's trials, read from the folder that it leaves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dpo_bench.errors import ConfigurationError
from dpo_bench.storage import write_json
from dpo_bench.sweep.status import print_status
from dpo_bench.sweep.store import Manifest, Store, write_manifest


def sweep(folder: Path) -> Store:
    """One trial of each state."""
    store = Store(folder)
    store.folder.mkdir()
    store.open({"conditions": {}, "trials": ["well", "badly", "begun", "later"]})
    for name, status, error in (("well", "done", None), ("badly", "failed", "out of [memory]")):
        with store.new_trial(name) as own:
            (own / "samples.parquet").write_text("rows")
            values = {"beta": 0.1, "tau": 2.0}
            write_manifest(own, Manifest(name, status, "dpo", "beta", 0.1, values, 7, error=error))
    (store.checkpoint("begun") / "step-000000003").mkdir(parents=True)
    return store


def shown(store: Store, verify: bool = False) -> tuple[bool, list[str]]:
    screen = io.StringIO()
    sound = print_status(store.folder, verify, Console(file=screen, width=160))
    return sound, screen.getvalue().splitlines()


def line(lines: list[str], name: str) -> str:
    (found,) = (line for line in lines if name in line)
    return found


def test_every_planned_trial_has_its_state(tmp_path: Path) -> None:
    sound, lines = shown(sweep(tmp_path / "sweep"))
    assert sound
    cells = [cell.strip() for cell in line(lines, "well").strip("│ ").split("│")]
    assert cells == ["well", "dpo", "beta=0.1 tau=2", "7", "done"]
    assert "failed: out of [memory]" in line(lines, "badly")
    assert "interrupted" in line(lines, "begun")
    assert "to do" in line(lines, "later")
    assert not any("damaged" in line or "as it was" in line for line in lines), "not asked for"


def test_a_stopped_trial_and_values_of_its_own_are_shown(tmp_path: Path) -> None:
    store = Store(tmp_path)
    training = {"learning_rate": 0.5, "steps": 60, "schedule": "linear", "epochs": None}
    experiment = {"training": training, "search": {"kl": [1.0]}}
    store.open({"conditions": {}, "experiment": experiment, "trials": []})
    write_json(store.search_file, {"trials": ["far", "next"]})
    with store.new_trial("far") as own:
        own_training = {**training, "learning_rate": 0.125, "schedule": "constant"}
        rest: dict[str, Any] = {"training": own_training, "error": "KL 33", "stopped": {}}
        write_manifest(
            own, Manifest("far", "stopped", "dpo", "beta", 0.1, {"beta": 0.1}, 7, **rest)
        )
    _, lines = shown(store)
    cells = [cell.strip() for cell in line(lines, "far").strip("│ ").split("│")]
    own_values = "beta=0.1 learning_rate=0.125 schedule=constant"
    assert cells == ["far", "dpo", own_values, "7", "stopped: KL 33"]
    assert "to do" in line(lines, "next")


def test_damage_is_looked_for_when_asked(tmp_path: Path) -> None:
    store = sweep(tmp_path / "sweep")
    sound, lines = shown(store, verify=True)
    assert sound
    assert lines[-1] == "every file is as it was written."
    (store.trial_folder("well") / "samples.parquet").write_text("other")
    sound, lines = shown(store, verify=True)
    assert not sound
    (row,) = (one for one in lines if one.startswith("│ well"))
    assert "done; DAMAGED: samples.parquet" in row
    assert "DAMAGED" not in line(lines, "badly")
    assert f"DAMAGED: {store.trial_folder('well') / 'samples.parquet'}" in lines
    assert lines[-1].startswith("1 file damaged: run the sweep again")
    assert shown(store)[0], "nothing is said of what was not looked at"


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a sweep's folder: no experiment\.json"):
        print_status(tmp_path, False, Console(file=io.StringIO()))
