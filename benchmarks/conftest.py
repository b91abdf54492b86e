"""What is kept of a run of the hot pieces: no name of a machine, no names of branches."""

from __future__ import annotations

from typing import Any


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Leave the machine's name out of a saved run."""
    machine_info.pop("node", None)


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    """Leave branches and authors' times out."""
    for name in list(commit_info):
        if name not in {"id", "dirty"}:
            commit_info.pop(name)
