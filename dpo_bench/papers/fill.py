"""Our column of a paper's table, from finished sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.contract import get_loss
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.plan import COSMETIC
from dpo_bench.experiment.read import find_file, read_file, validate
from dpo_bench.papers.precision import Z95, share_error
from dpo_bench.papers.record import Row
from dpo_bench.report.read import SweepResults, Trial, read_sweep

if TYPE_CHECKING:
    from dpo_bench.papers.tables import Cell, Column, PublishedTable

IDENTITY = ("policy", "reference", "preferences")
"""Keys without which a sweep is another experiment."""
SETTINGS = ("data", "training", "evaluation")


def filled_rows(table: PublishedTable, folders: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """The rows of a table with our column, and what must be said of the sweeps.

    A verdict is given only where the sweep's settings are those of the shipped file.

    Raises:
        ConfigurationError: a folder is no sweep, or has another policy or other preferences.
    """
    trials: list[Trial] = []
    remarks, exact = [], True
    for folder in folders:
        if not (folder / "experiment.json").is_file():
            raise ConfigurationError(f"{folder} is not a sweep's folder: no experiment.json in it.")
        sweep = read_sweep(folder)
        changed = _changes(table, sweep)
        trials += sweep.trials
        if changed:
            exact = False
            remarks.append(
                f"`{folder.name}` was run with other settings ({'; '.join(changed)}): its figures"
                " stand without a verdict."
            )
    rows = []
    for column in table.columns:
        for x, cell in zip(column.x, column.published, strict=True):
            rows.append(_filled(table, column, (x, cell), trials, exact))
    return rows, remarks


def _changes(table: PublishedTable, sweep: SweepResults) -> list[str]:
    """Settings in which a sweep differs from the nearest of the table's files, in words."""
    ran = validate(dict(sweep.experiment), str(sweep.folder)).settings()
    candidates = []
    for name in table.experiments:
        shipped = validate(read_file(find_file(name)), name).settings()
        if all(shipped[key] == ran[key] for key in IDENTITY):
            candidates.append(_differences(shipped, ran))
    if not candidates:
        raise ConfigurationError(
            f"{sweep.folder} is a sweep of {ran['policy']} on {ran['preferences']}: {table.name} is"
            f" filled from {', '.join(table.experiments)} (`--runs`)."
        )
    return min(candidates, key=len)


def _differences(shipped: Mapping[str, Any], ran: Mapping[str, Any]) -> list[str]:
    return [
        f"{section}.{key} = {ran[section][key]} instead of {value}"
        for section in SETTINGS
        for key, value in shipped[section].items()
        if key not in COSMETIC.get(section, ()) and ran[section][key] != value
    ]


def _filled(
    table: PublishedTable,
    column: Column,
    at: tuple[float | str, Cell],
    trials: Sequence[Trial],
    exact: bool,
) -> Row:
    row = table.row(column, *at)
    if not column.loss or not column.metric or table.judge or isinstance(at[0], str):
        return row
    name = get_loss(column.loss).name
    found = [trial for trial in trials if trial.loss == name and trial.strength == at[0]]
    if found and not any(trial.done for trial in found):
        return replace(row, note=", ".join(filter(None, (row.note, "ours failed"))))
    figures = [trial.measured(column.metric) for trial in found]
    known = [figure for figure in figures if figure.value is not None]
    if not known:
        return row
    mean = sum(figure.value or 0.0 for figure in known) / len(known)
    widths = [
        (figure.high - figure.low) / (2 * Z95)
        for figure in known
        if figure.low is not None and figure.high is not None
    ]
    ours = math.hypot(*widths) / len(widths) if widths else 0.0
    tolerance = _tolerance(table, column, at[0], ours) if exact else None
    return replace(row, reproduced=mean, tolerance=tolerance)


def _tolerance(table: PublishedTable, column: Column, x: float | str, ours: float) -> float | None:
    """95% half-width of the difference; None where the paper gives neither n nor a spread."""
    if column.spread is not None:
        return math.hypot(column.spread, Z95 * ours)
    share = column.share(x)
    if table.n is None or share is None:
        return None
    scale = 100 if column.unit == "percent" else 1
    error = share_error(share, table.n, by_eye=column.mark(x) == "eye")
    return Z95 * math.hypot(scale * error, ours)
