"""Reports on disk: Markdown, CSV and figures, with command, time and versions."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_bench.reproduce.draw import draw
from dpo_bench.reproduce.record import KEYS, Reproduced, Reproducible
from dpo_bench.reproduce.show import markdown_section
from dpo_bench.storage import write_atomic, write_csv

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("dpo_bench", "torch", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class Finished:
    """An experiment that ran.

    Attributes:
        experiment: which.
        outcome: what it gave.
        seconds: what it took.
    """

    experiment: Reproducible
    outcome: Reproduced
    seconds: float


def write_report(folder: Path, finished: Sequence[Finished], command: str) -> Path:
    """Write report.md, and for each experiment a CSV and its figures; returns report.md."""
    for one in finished:
        name = one.experiment.name
        write_csv(folder / f"{name}.csv", _table(one))
        for kind, content in draw(one.outcome).items():
            write_atomic(folder / "figures" / f"{name}.{kind}", content)
    report = folder / "report.md"
    write_atomic(report, _markdown(finished, command))
    return report


def _table(one: Finished) -> pd.DataFrame:
    import pandas as pd

    columns = [*KEYS, "provenance", "rerun"]
    rows = [
        row.as_dict() | {"provenance": row.provenance, "rerun": row.rerun}
        for row in one.outcome.rows
    ]
    return pd.DataFrame(rows, columns=columns)


def _markdown(finished: Sequence[Finished], command: str) -> str:
    total = sum(one.seconds for one in finished)
    failed = sum(len(one.outcome.failed) for one in finished)
    judged = sum(row.ok is not None for one in finished for row in one.outcome.rows)
    head = [
        "# Published results, reproduced",
        f"`{command}` took {total:.0f} s on one core of {platform.machine()} ({versions()}).",
    ]
    if judged:
        head.append(f"{judged - failed} of {judged} verdicts hold; {failed} fail.")
    sections = (markdown_section(one.experiment, one.outcome, one.seconds) for one in finished)
    return "\n\n".join([*head, *sections]) + "\n"


def versions(packages: Iterable[str] = PACKAGES) -> str:
    """Python's and the packages' versions, in a line."""
    named = [f"{package} {version(package)}" for package in packages]
    return ", ".join([f"Python {platform.python_version()}", *named])
