"""The states of a sweep's trials, and whether its files are still what was written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dpo_bench.errors import ConfigurationError
from dpo_bench.sweep.results import planned_trials
from dpo_bench.sweep.store import Manifest, Store, damaged_files


def print_status(folder: Path, verify: bool, console: Console) -> bool:
    """Print a row per planned trial; returns whether nothing is damaged.

    Raises:
        ConfigurationError: the folder is not a sweep's.
    """
    store = Store(folder)
    record = store.read_experiment()
    if record is None:
        raise ConfigurationError(f"{folder} is not a sweep's folder: no experiment.json in it.")
    table = Table("trial", "loss", Column("hyperparameters", overflow="fold"), "seed", "state")
    damaged = 0
    shared = dict(dict(record.get("experiment") or {}).get("training") or {})
    for identity in planned_trials(store):
        manifest = store.manifest(identity)
        if manifest is None:
            state = "interrupted" if any(store.checkpoint(identity).glob("step-*")) else "to do"
            table.add_row(identity, "", "", "", state)
            continue
        state = manifest.status + (f": {manifest.error}" if manifest.error else "")
        if verify and (bad := damaged_files(store.trial_folder(identity))):
            damaged += 1
            state += f"; DAMAGED: {', '.join(bad)}"
        values = _values(manifest, shared)
        table.add_row(identity, *map(escape, (manifest.loss, values, str(manifest.seed), state)))
    console.print(table)
    if verify:
        found = f"{damaged} trials are damaged" if damaged else "every file is as it was written"
        console.print(f"{found}.")
    return damaged == 0


def _values(manifest: Manifest, shared: Mapping[str, Any]) -> str:
    """A trial's hyperparameters and what it trained with unlike the sweep's ``[training]``."""
    own = {
        key: value
        for key, value in (manifest.training or {}).items()
        if value is not None and value != shared.get(key)
    }
    values = {**manifest.hyperparameters, **own}
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values.items()
    )
