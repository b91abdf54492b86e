"""The states of a sweep's trials, and whether its files are still what was written."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dpo_bench.errors import ConfigurationError
from dpo_bench.sweep.store import Store, damaged_files


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
    for identity in record["trials"]:
        manifest = store.manifest(identity)
        if manifest is None:
            state = "interrupted" if store.checkpoint(identity).is_file() else "to do"
            table.add_row(identity, "", "", "", state)
            continue
        state = manifest.status if manifest.error is None else f"failed: {manifest.error}"
        if verify and (bad := damaged_files(store.trial_folder(identity))):
            damaged += 1
            state += f"; DAMAGED: {', '.join(bad)}"
        values = " ".join(f"{key}={value:g}" for key, value in manifest.hyperparameters.items())
        table.add_row(identity, *map(escape, (manifest.loss, values, str(manifest.seed), state)))
    console.print(table)
    if verify:
        found = f"{damaged} trials are damaged" if damaged else "every file is as it was written"
        console.print(f"{found}.")
    return damaged == 0
