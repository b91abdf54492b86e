"""Digests of what is written anew from time to time: a folder's own files, and its record.

Tables, report and figures stand directly in a sweep's folder and follow its trials. Their SHA-256
are in the folder's ``manifest.json``: taken out before a file is written, put in again after it, so
that a killed process leaves a file that counts as unfinished and not as damaged.

The record of what was asked for can be made anew by nobody, so it is kept twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.disk import flock
from dpo_bench.errors import DamagedError
from dpo_bench.storage import (
    ARTEFACTS,
    MANIFEST,
    Sealed,
    damaged,
    is_whole,
    known_digest,
    open_sealed,
    read_record,
    write_record,
)

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

TABLES = ("experiment", "conditions", "versions", "hashes", "data", "plan", "computing")
SECTIONS = ("training", "evaluation", "comparison", "search", "world")
LISTS = ("trials", "notes")
"""Parts of a sweep's record, and of the experiment in it."""


class Ledger:
    """The digests of a folder's own files.

    Args:
        folder: whose files are meant; its trials and its reference have manifests of their own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def is_there(self) -> bool:
        """Whether there is one; older versions wrote none."""
        return (self.folder / MANIFEST).exists()

    def digests(self) -> dict[str, str]:
        """SHA-256 by file; of files that are whole or damaged, not of unfinished ones.

        Raises:
            DamagedError: the manifest is not as it was written.
        """
        try:
            return dict(open_sealed(self.folder).artefacts or {})
        except FileNotFoundError:
            return {}

    def damaged(self, names: Collection[str] | None = None) -> list[str]:
        """Files that are missing or not as they were written; all of them, or some.

        Raises:
            DamagedError: as `digests`.
        """
        listed = self.digests()
        asked = sorted(listed) if names is None else [one for one in names if one in listed]
        return [name for name in asked if not is_whole(self.folder / name, listed[name])]

    def read_parquet(self, name: str) -> pd.DataFrame:
        """A table, just as it was written, as far as that is known.

        Raises:
            DamagedError: it, or the manifest, is missing or damaged.
        """
        listed = self.digests()
        return Sealed(self.folder, {}, listed if name in listed else None).read_parquet(name)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object; likewise."""
        listed = self.digests()
        return Sealed(self.folder, {}, listed if name in listed else None).read_json(name)

    @contextlib.contextmanager
    def writing(self, names: Iterable[str]) -> Iterator[None]:
        """While this is open these files are written, or removed, and count as unfinished.

        Where the manifest was damaged, what it said of all other files is forgotten.
        """
        names = sorted(names)
        self._change(names, {})
        yield
        files = {name: self.folder / name for name in names}
        self._change(
            names, {name: known_digest(file) for name, file in files.items() if file.is_file()}
        )

    def _change(self, without: Collection[str], put: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):
            before: Mapping[str, str] = {}
            with contextlib.suppress(DamagedError):
                before = self.digests()
            after = {name: sha for name, sha in before.items() if name not in without} | dict(put)
            if after != before or not self.is_there:
                write_record(self.folder / MANIFEST, {ARTEFACTS: dict(sorted(after.items()))})


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Change a folder's manifest one after another: a report may be written while a sweep runs."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # folders cannot be opened on this system
        yield
        return
    try:
        flock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def write_twice(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record that nothing can restore, and its copy."""
    write_record(path, value)
    write_record(copy_of(path), value)


def read_twice(path: Path) -> dict[str, Any]:
    """A record, or where it is missing or damaged its copy.

    Raises:
        FileNotFoundError: there is neither.
        DamagedError: both are damaged, or one is and the other is missing.
    """
    try:
        return _of_right_kinds(read_record(path), path)
    except FileNotFoundError:
        return _read_copy(path)
    except DamagedError:
        try:
            found = _read_copy(path)
        except FileNotFoundError:
            raise damaged(path) from None
        log.warning("%s is damaged: its copy is taken", path, extra={"passing": True})
        return found


def _read_copy(path: Path) -> dict[str, Any]:
    return _of_right_kinds(read_record(copy_of(path)), copy_of(path))


def _of_right_kinds(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """A record whose parts are tables and lists where they are to be.

    Of older versions no digest tells that one was changed.
    """
    settings = record.get("experiment") or {}
    tables = [record.get(name) for name in TABLES]
    tables += [settings.get(name) for name in SECTIONS] if isinstance(settings, dict) else []
    lists = [record.get(name) for name in LISTS]
    fits = all(isinstance(one or {}, dict) for one in tables)
    if not fits or not all(isinstance(one or [], list) for one in lists):
        raise damaged(path, " (a part of it is of another kind)")
    return record


def copy_of(path: Path) -> Path:
    """Where the copy of a record is."""
    return path.with_name(f"{path.stem}.copy{path.suffix}")
