"""A sweep's folder: the only truth about what was planned, what is done and what failed.

```
experiment.json          what was asked for, versions, hashes, the planned trials; and its copy
manifest.json            SHA-256 of the folder's own tables, report and figures
reference/               the reference evaluated once for all trials
trials/<id>/             one trial; manifest.json is written last and lists every file's SHA-256
checkpoints/<id>.state   of trials that are under way; <id>/ holds their evaluations so far
search.json              of a sweep with [search]: the trials that it asks for, what it has found
results.parquet, .csv    a row per trial that has ended
opponents.parquet        every trial against every other
opponents.json           what a judge of these took
```
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from dpo_bench.disk import flock
from dpo_bench.errors import ConfigurationError, DamagedError, LockedError, StorageError
from dpo_bench.experiment.config import OWN_KEYS
from dpo_bench.ledger import Ledger, copy_of, read_twice, write_twice
from dpo_bench.storage import (
    MANIFEST,
    Sealed,
    canonical_json,
    open_folder,
    open_sealed,
    published_folder,
    read_record,
    remove,
    remove_leftovers,
    seal,
)
from dpo_bench.sweep.early_stop import is_beyond

LOCK = ".lock"
EXPERIMENT = "experiment.json"
TRIALS, REFERENCE, CHECKPOINTS, FIGURES = "trials", "reference", "checkpoints", "figures"
OWN_NAMES = (
    *(EXPERIMENT, copy_of(Path(EXPERIMENT)).name, "search.json", MANIFEST, REFERENCE),
    *("results.parquet", "results.csv", "opponents.parquet", "opponents.json"),
    *("report.html", "report.md", "summary.txt", "matched.csv"),
)
"""What is written directly into the folder."""
FOUND = ("data", "computing", "notes")
"""Parts of the record that are found while it is worked on, and stay true under its conditions."""
SOUGHT = "sought"
"""The part that says what a search of this folder has looked for, in order."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a finished trial; see the fields of the results table.

    Attributes:
        trial: its identity.
        status: ``done``, ``failed``, or ``stopped`` early because its KL was beyond a limit.
        loss: name of the loss.
        strength: name of the loss's own strength, None when it has none.
        beta: value of that strength.
        hyperparameters: all of them.
        seed: of the trial.
        seconds: time spent, by phase.
        error: one line, when it failed or was stopped.
        cause: class of the error: ``DivergedError`` is a result, anything else is tried again.
        traceback: where a crash came from.
        artefacts: SHA-256 of each file of the folder.
        training: what it trained with, of the keys of ``[training]`` that a trial may have a value
            of its own of; None in older ones, for which the sweep's ``[training]`` holds.
        stopped: where it was stopped: step, kl and its standard error se, the limit (nats), the
            steps that it would have made, the seconds that it had trained.
    """

    trial: str
    status: str
    loss: str
    strength: str | None
    beta: float | None
    hyperparameters: Mapping[str, float]
    seed: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    cause: str | None = None
    traceback: str | None = None
    artefacts: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None
    stopped: Mapping[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        """Whether running the trial again, to its end, could not give anything else."""
        return self.status == "done" or self.cause == "DivergedError"

    def is_final_for(self, kl_limit: float | None) -> bool:
        """The same of a run that may be stopped early.

        Args:
            kl_limit: beyond which it would be, nats; None: never.
        """
        if self.stopped is None:
            return self.is_final
        return is_beyond(self.stopped["kl"], self.stopped["se"], kl_limit)


_MANIFEST = TypeAdapter(Manifest)


class Store:
    """Reads and writes a sweep's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_open = False

    @property
    def experiment_file(self) -> Path:
        """The resolved configuration."""
        return self.folder / EXPERIMENT

    @property
    def search_file(self) -> Path:
        """What a search has asked for and found so far."""
        return self.folder / "search.json"

    @property
    def results_file(self) -> Path:
        """The results table."""
        return self.folder / "results.parquet"

    @property
    def reference_folder(self) -> Path:
        """The reference's own evaluation."""
        return self.folder / REFERENCE

    @property
    def ledger(self) -> Ledger:
        """Digests of the folder's own files: tables, report, figures."""
        return Ledger(self.folder)

    def trial_folder(self, trial: str) -> Path:
        """Where a trial's artefacts lie once it is finished."""
        return self.folder / TRIALS / trial

    def checkpoint(self, trial: str) -> Path:
        """Where a trial under way keeps its state."""
        return self.folder / CHECKPOINTS / f"{trial}.state"

    def evaluations(self, trial: str) -> Path:
        """Where a trial under way keeps its evaluations along training."""
        return self.folder / CHECKPOINTS / trial

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; freed by the system however the process ends.

        What a killed run has left under temporary names is removed. A folder that comes to hold no
        record, because it is refused or nothing could be begun, is left as it was found.

        Raises:
            LockedError: another process holds it.
            ConfigurationError: it is another program's, or has a link where it should have folders.
            StorageError: the folder cannot be written.
        """
        self.require_own()
        before = (self.folder.exists(), (self.folder / LOCK).exists())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK, timeout=0)
            lock.acquire()
        except Timeout:
            raise LockedError(
                f"{self.folder} is in use by another process; wait for it, or give another --out."
            ) from None
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        try:
            self._remove_leftovers()
            yield
        finally:
            if not self._is_open:
                self._leave_as_found(*before)
            lock.release()

    def is_held(self) -> bool:
        """Whether a process works in the folder, as far as the system tells."""
        try:
            descriptor = os.open(self.folder / LOCK, os.O_RDONLY)
        except OSError:
            return False
        try:
            return flock(descriptor, shared=True) is False
        finally:
            os.close(descriptor)

    def _leave_as_found(self, was_there: bool, was_locked: bool) -> None:
        if not was_locked:
            (self.folder / LOCK).unlink(missing_ok=True)
        if not was_there:
            with contextlib.suppress(OSError):  # something has come into it
                self.folder.rmdir()

    def require_own(self) -> None:
        """Refuse a folder that is no sweep's, before anything in it is touched; see `locked`."""
        try:
            names = sorted(path.name for path in self.folder.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        ours = {EXPERIMENT, copy_of(self.experiment_file).name, TRIALS}
        if not ours & set(names) and (strangers := [one for one in names if one != LOCK]):
            raise ConfigurationError(
                f"{self.folder} is not a sweep's folder (it holds {strangers[0]}); "
                "give another --out."
            )
        for name in (TRIALS, REFERENCE, CHECKPOINTS, FIGURES):
            if (self.folder / name).is_symlink():
                raise ConfigurationError(
                    f"{self.folder / name} is a link, which a sweep does not follow out of its "
                    "folder: put the folder itself there, or give another --out."
                )

    def _remove_leftovers(self) -> None:
        """Of runs that were killed: whatever they were writing."""
        remove_leftovers(self.folder, OWN_NAMES)
        for name in (TRIALS, FIGURES, CHECKPOINTS):
            remove_leftovers(self.folder / name)
        for folder in (self.folder / CHECKPOINTS).glob("*/"):
            remove_leftovers(folder)

    def open(self, record: Mapping[str, Any]) -> None:
        """Write the experiment's record, after checking that the folder is free or its own.

        Losses, strengths, seeds and what a trial may have of its own of ``[training]`` may differ
        from what the folder was made for: its finished trials stay. Anything else would put
        incomparable trials side by side.

        Raises:
            ConfigurationError: the folder holds another experiment, or something else entirely.
        """
        earlier = self.read_experiment()
        if earlier is not None and _common(earlier["conditions"]) != _common(record["conditions"]):
            ours, theirs = _common(earlier["conditions"]), _common(record["conditions"])
            where, old, new = _first_difference(ours, theirs)
            raise ConfigurationError(
                f"{self.folder} holds another experiment: {where} is {old} there and {new} here; "
                "give another --out or name."
            )
        kept = {key: earlier[key] for key in (*FOUND, SOUGHT) if key in earlier} if earlier else {}
        if plan := earlier_plan(earlier or record):
            kept["plan"] = plan
        self._is_open = True
        write_twice(self.experiment_file, {**record, **kept})

    def add_to_record(self, more: Mapping[str, Any]) -> None:
        """Add to the experiment's record."""
        write_twice(self.experiment_file, {**(self.read_experiment() or {}), **more})

    def read_experiment(self) -> dict[str, Any] | None:
        """The record of the folder's experiment, or None.

        Raises:
            DamagedError: neither it nor its copy is as it was written.
        """
        try:
            return read_twice(self.experiment_file)
        except FileNotFoundError:
            return None

    def read_search(self) -> dict[str, Any]:
        """What a search has asked for and found.

        Raises:
            FileNotFoundError: there is no such record.
            DamagedError: it is not as it was written.
        """
        return read_record(self.search_file)

    def manifest(self, trial: str) -> Manifest | None:
        """A finished trial's manifest; None where there is none that is whole."""
        try:
            sealed = self.sealed_trial(trial)
            values = {**sealed.fields, "artefacts": sealed.artefacts or {}}
            # As JSON: of Python's values, strictly, a class is made of no mapping.
            manifest = _MANIFEST.validate_json(canonical_json(values), strict=True)
        except (FileNotFoundError, DamagedError, ValueError):  # also NaN, which is never written
            return None
        return manifest if manifest.trial == trial else None

    def sealed_trial(self, trial: str) -> Sealed:
        """A finished trial's folder.

        Raises:
            FileNotFoundError: there is none; a link is none.
            DamagedError: its manifest is not as it was written.
        """
        folder = self.trial_folder(trial)
        if folder.is_symlink():
            raise FileNotFoundError(folder)
        return open_sealed(folder)

    def reference(self) -> Sealed:
        """The reference's own evaluation, whether or not it is there.

        Raises:
            DamagedError: its manifest is not as it was written.
        """
        return open_folder(self.reference_folder)

    @contextlib.contextmanager
    def new_trial(self, trial: str) -> Iterator[Path]:
        """Fill a trial's folder, which appears when the block ends; see `write_manifest`.

        An earlier failure of the same trial is replaced, and so is one that was stopped early.
        """
        final = self.trial_folder(trial)
        earlier = self.manifest(trial)
        if os.path.lexists(final) and not (earlier and earlier.is_final):
            remove(final)
        with published_folder(final) as folder:
            yield folder

    def reuse(self, trial: str, is_meant: Callable[[Manifest], bool] = lambda _: True) -> bool:
        """Take a finished trial over from a neighboring sweep that has done the same one.

        Args:
            trial: its identity.
            is_meant: whether a manifest is that of the trial with this identity.
        """
        earlier = self.manifest(trial)
        if earlier is not None and earlier.stopped is None and not self.damage(trial):
            return False
        for neighbor in sorted(self.folder.parent.glob(f"*/{TRIALS}/{trial}")):
            other = Store(neighbor.parent.parent)
            found = other.manifest(trial)
            if found is None or found.status != "done" or not is_meant(found):
                continue
            if not other.damage(trial):
                with self.new_trial(trial) as folder:
                    link_files(neighbor, folder)
                self._reuse_shared(other)
                return True
        return False

    def _reuse_shared(self, neighbor: Store) -> None:
        """Take over the reference: sweeps that share a trial share their conditions."""
        if self.has_reference() or not neighbor.has_reference():
            return
        with published_folder(self.reference_folder) as folder:
            link_files(neighbor.reference_folder, folder)
        record = neighbor.read_experiment() or {}
        self.add_to_record({key: record[key] for key in FOUND if key in record})

    def damage(self, trial: str) -> list[str]:
        """Files of a finished trial that are missing or not as they were written.

        Raises:
            StorageError: one may not be read.
        """
        manifest = self.manifest(trial)
        if manifest is None:
            return [MANIFEST]
        return Sealed(self.trial_folder(trial), {}, manifest.artefacts).damaged()

    def has_reference(self) -> bool:
        """Whether the reference's evaluation is there, and whole as far as that is known."""
        folder = self.reference_folder
        try:
            return folder.is_dir() and not folder.is_symlink() and not self.reference().damaged()
        except DamagedError:
            return False


def earlier_plan(record: Mapping[str, Any]) -> Any:
    """What was to be compared when the folder was made; stated after a look it is no plan."""
    return record.get("plan", dict(record.get("experiment") or {}).get("comparison", {}))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, last, with the checksum of every other file of the folder."""
    seal(folder, {name: getattr(manifest, name) for name in manifest.__slots__})


def link_files(source: Path, target: Path) -> None:
    """Share a folder's files, which are never changed in place; copy them where links fail."""
    for file in source.rglob("*"):
        if not file.is_file():
            continue
        new = target / file.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, new)
        except OSError:
            shutil.copy2(file, new)


def _cannot_write(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {folder}: {error.strerror}; give another --out.")


def _common(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """What all trials of a folder must share: all but what a trial may have of its own."""
    training = dict(conditions.get("training") or {})
    return {**conditions, "training": {k: v for k, v in training.items() if k not in OWN_KEYS}}


def _first_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str = ""
) -> tuple[str, Any, Any]:
    for key in sorted({*old, *new}):
        if old.get(key) == new.get(key):
            continue
        if isinstance(old.get(key), Mapping) and isinstance(new.get(key), Mapping):
            return _first_difference(old[key], new[key], f"{path}{key}.")
        return f"{path}{key}", old.get(key), new.get(key)
    return path, old, new
