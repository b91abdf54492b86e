"""The states of a sweep's trials, and whether its files are still what was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dpo_bench.errors import ConfigurationError, DamagedError
from dpo_bench.ledger import copy_of
from dpo_bench.storage import MANIFEST, has_digest, open_sealed, read_record
from dpo_bench.sweep.results import planned_trials
from dpo_bench.sweep.store import CHECKPOINTS, FIGURES, OWN_NAMES, TRIALS, Store
from dpo_bench.terminal import say
from dpo_bench.wording import counted


def print_status(folder: Path, verify: bool, console: Console) -> bool:
    """Print a row per planned trial, and of what is damaged; returns whether nothing is.

    Args:
        folder: of a sweep.
        verify: also hold every file of it against its digest.
        console: to print to.

    Raises:
        ConfigurationError: the folder is not a sweep's.
        DamagedError: its record is damaged, and nothing was to be verified.
    """
    store = Store(folder)
    if not store.experiment_file.is_file():
        raise ConfigurationError(f"{folder} is not a sweep's folder: no experiment.json in it.")
    wrong = sorted(damaged_in(store)) if verify else []
    try:
        record = store.read_experiment() or {}
        identities = planned_trials(store)
    except DamagedError:
        if not verify:
            raise
        record, identities = {}, sorted(path.name for path in _trials(store))
    console.print(_table(store, identities, record, wrong))
    if verify:
        _print_verified(store, wrong, console)
    return not wrong


def _table(
    store: Store, identities: list[str], record: Mapping[str, Any], wrong: list[str]
) -> Table:
    table = Table("trial", "loss", Column("hyperparameters", overflow="fold"), "seed", "state")
    shared = dict(dict(record.get("experiment") or {}).get("training") or {})
    for identity in identities:
        place = f"{TRIALS}/{identity}/"
        bad = [one.removeprefix(place) for one in wrong if one.startswith(place)]
        told = f"DAMAGED: {', '.join(bad)}"
        manifest = store.manifest(identity)
        if manifest is None:
            is_begun = any(store.checkpoint(identity).glob("step-*"))
            state = told if bad else "interrupted" if is_begun else "to do"
            table.add_row(identity, "", "", "", state)
            continue
        state = manifest.status + (f": {manifest.error}" if manifest.error else "")
        state += f"; {told}" if bad else ""
        values = _values(manifest.hyperparameters, manifest.training, shared)
        table.add_row(identity, *map(escape, (manifest.loss, values, str(manifest.seed), state)))
    return table


def _print_verified(store: Store, wrong: list[str], console: Console) -> None:
    for name in wrong:
        say(console, f"DAMAGED: {store.folder / name}")
    older, unfinished = list(without_digest(store)), list(unfinished_in(store))
    if older:
        say(console, f"no digest (written by an older version): {', '.join(older)}")
    if unfinished:
        say(console, f"being written, or left unfinished: {', '.join(unfinished)}")
    if wrong:
        say(
            console,
            f"{counted(len(wrong), 'file')} damaged: run the sweep again, which does only that "
            "again.",
        )
    elif older or unfinished:
        say(console, "every file that has a digest is as it was written.")
    else:
        say(console, "every file is as it was written.")


def damaged_in(store: Store) -> Iterator[str]:
    """Every file of a sweep's folder that is missing or not as it was written, by its path there.

    Raises:
        StorageError: one may not be read.
    """
    copy = copy_of(store.experiment_file)
    for file in (store.experiment_file, copy, store.search_file):
        if file.exists() and not _is_whole_record(file):
            yield file.name
    try:
        yield from store.ledger.damaged()
    except DamagedError:
        yield MANIFEST
    trials = [f"{TRIALS}/{path.name}" for path in _trials(store)]
    for place in [*trials, "reference"]:
        if (store.folder / place).is_dir():
            yield from (f"{place}/{name}" for name in _damaged_in_folder(store, place))
    under_way = [
        f"{place}/{name}"
        for place in _under_way(store)
        for name in _damaged_in_folder(store, place)
    ]
    if under_way and not store.is_held():  # a sweep that runs removes what it has left behind
        yield from under_way


def _damaged_in_folder(store: Store, place: str) -> list[str]:
    folder = store.folder / place
    if place.startswith(f"{TRIALS}/"):
        return store.damage(folder.name)
    try:
        return open_sealed(folder).damaged()
    except DamagedError:
        return [MANIFEST]
    except FileNotFoundError:
        return []  # of an older version, or gone meanwhile


def _is_whole_record(file: Path) -> bool:
    try:
        read_record(file)
    except DamagedError:
        return False
    except FileNotFoundError:
        pass  # gone meanwhile
    return True


def without_digest(store: Store) -> Iterator[str]:
    """What older versions wrote, of which nobody can say whether it is as it was written."""
    manifests = [path / MANIFEST for path in _trials(store)]
    for file in (store.experiment_file, store.search_file, *manifests):
        if file.is_file() and _is_whole_record(file) and not has_digest(file):
            yield file.relative_to(store.folder).as_posix()
    reference = store.reference_folder
    if reference.is_dir() and not (reference / MANIFEST).exists():
        yield reference.name
    if not store.ledger.is_there:
        yield from _derived(store)


def unfinished_in(store: Store) -> Iterator[str]:
    """Tables, report and figures that are being written, or were when a run was killed."""
    try:
        listed = store.ledger.digests() if store.ledger.is_there else None
    except DamagedError:
        return
    if listed is not None:
        yield from (name for name in _derived(store) if name not in listed)


def _derived(store: Store) -> list[str]:
    """The folder's own files that follow from its trials."""
    records = (store.experiment_file.name, store.search_file.name, MANIFEST, "reference")
    names = [name for name in OWN_NAMES if name not in records and ".copy." not in name]
    figures = [path.name for path in (store.folder / FIGURES).glob("[!.]*")]
    names += [f"{FIGURES}/{name}" for name in figures]
    return sorted(name for name in names if (store.folder / name).is_file())


def _trials(store: Store) -> list[Path]:
    return sorted((store.folder / TRIALS).glob("[!.]*"))


def _under_way(store: Store) -> list[str]:
    """States and evaluations of trials that are not finished."""
    found = (store.folder / CHECKPOINTS).glob(f"*/[!.]*/{MANIFEST}")
    return sorted(path.parent.relative_to(store.folder).as_posix() for path in found)


def _values(
    hyperparameters: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    shared: Mapping[str, Any],
) -> str:
    """A trial's hyperparameters and what it trained with unlike the sweep's ``[training]``."""
    own = {
        key: value
        for key, value in (training or {}).items()
        if value is not None and value != shared.get(key)
    }
    values = {**hyperparameters, **own}
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values.items()
    )
