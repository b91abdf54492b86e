"""A sweep's folder: the only truth about what was planned, what is done and what failed.

```
experiment.json          what was asked for, versions, hashes, the planned trials
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
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpo_bench.errors import ConfigurationError, EnvironmentProblem, LockedError
from dpo_bench.experiment.config import OWN_KEYS
from dpo_bench.storage import file_digest, published_folder, write_json
from dpo_bench.sweep.early_stop import is_beyond

MANIFEST = "manifest.json"
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


class Store:
    """Reads and writes a sweep's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def experiment_file(self) -> Path:
        """The resolved configuration."""
        return self.folder / "experiment.json"

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
        return self.folder / "reference"

    def trial_folder(self, trial: str) -> Path:
        """Where a trial's artefacts lie once it is finished."""
        return self.folder / "trials" / trial

    def checkpoint(self, trial: str) -> Path:
        """Where a trial under way keeps its state."""
        return self.folder / "checkpoints" / f"{trial}.state"

    def evaluations(self, trial: str) -> Path:
        """Where a trial under way keeps its evaluations along training."""
        return self.folder / "checkpoints" / trial

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; freed by the system however the process ends.

        Raises:
            LockedError: another process holds it.
            EnvironmentProblem: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise LockedError(
                f"{self.folder} is in use by another process; wait for it, or give another --out."
            ) from None
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write {self.folder}: {error.strerror}; give another --out."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def open(self, record: Mapping[str, Any]) -> None:
        """Write the experiment's record, after checking that the folder is free or its own.

        Losses, strengths, seeds and what a trial may have of its own of ``[training]`` may differ
        from what the folder was made for: its finished trials stay. Anything else would put
        incomparable trials side by side.

        Raises:
            ConfigurationError: the folder holds another experiment, or something else entirely.
        """
        earlier = self.read_experiment()
        if earlier is None:
            strangers = [path.name for path in self.folder.iterdir() if path.name != ".lock"]
            if strangers and not (self.folder / "trials").is_dir():
                raise ConfigurationError(
                    f"{self.folder} is not a sweep's folder (it holds {strangers[0]}); "
                    "give another --out."
                )
        elif _common(earlier["conditions"]) != _common(record["conditions"]):
            ours, theirs = _common(earlier["conditions"]), _common(record["conditions"])
            where, old, new = _first_difference(ours, theirs)
            raise ConfigurationError(
                f"{self.folder} holds another experiment: {where} is {old} there and {new} here; "
                "give another --out or name."
            )
        kept = {key: earlier[key] for key in (*FOUND, SOUGHT) if key in earlier} if earlier else {}
        if plan := earlier_plan(earlier or record):
            kept["plan"] = plan
        write_json(self.experiment_file, {**record, **kept})

    def add_to_record(self, more: Mapping[str, Any]) -> None:
        """Add to the experiment's record."""
        write_json(self.experiment_file, {**(self.read_experiment() or {}), **more})

    def read_experiment(self) -> dict[str, Any] | None:
        """The record of the folder's experiment, or None."""
        try:
            return json.loads(self.experiment_file.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise EnvironmentProblem(f"{self.experiment_file} cannot be read: {error}") from error

    def manifest(self, trial: str) -> Manifest | None:
        """A finished trial's manifest, or None: then the trial is still to be done."""
        file = self.trial_folder(trial) / MANIFEST
        try:
            return Manifest(**json.loads(file.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError):
            return None  # damaged: done again

    @contextlib.contextmanager
    def new_trial(self, trial: str) -> Iterator[Path]:
        """Fill a trial's folder, which appears when the block ends; see `write_manifest`.

        An earlier failure of the same trial is replaced, and so is one that was stopped early.
        """
        final = self.trial_folder(trial)
        earlier = self.manifest(trial)
        if final.exists() and not (earlier and earlier.is_final):
            shutil.rmtree(final)
        with published_folder(final) as folder:
            yield folder

    def reuse(self, trial: str) -> bool:
        """Take a finished trial over from a neighboring sweep that has done the same one."""
        earlier = self.manifest(trial)
        if earlier is not None and earlier.stopped is None:
            return False
        for neighbor in sorted(self.folder.parent.glob(f"*/trials/{trial}")):
            found = Store(neighbor.parent.parent).manifest(trial)
            if found and found.status == "done" and not damaged_files(neighbor):
                with self.new_trial(trial) as folder:
                    link_files(neighbor, folder)
                self._reuse_shared(Store(neighbor.parent.parent))
                return True
        return False

    def _reuse_shared(self, neighbor: Store) -> None:
        """Take over the reference: sweeps that share a trial share their conditions."""
        if self.reference_folder.is_dir() or not neighbor.reference_folder.is_dir():
            return
        with published_folder(self.reference_folder) as folder:
            link_files(neighbor.reference_folder, folder)
        record = neighbor.read_experiment() or {}
        self.add_to_record({key: record[key] for key in FOUND if key in record})


def earlier_plan(record: Mapping[str, Any]) -> Any:
    """What was to be compared when the folder was made; stated after a look it is no plan."""
    return record.get("plan", dict(record.get("experiment") or {}).get("comparison", {}))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, last, with the checksum of every other file of the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    artefacts = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    values = {name: getattr(manifest, name) for name in manifest.__slots__}
    write_json(folder / MANIFEST, {**values, "artefacts": artefacts})


def damaged_files(folder: Path) -> list[str]:
    """Files of a finished trial that are missing or differ from their checksum."""
    artefacts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["artefacts"]
    return [
        name
        for name, checksum in artefacts.items()
        if not (folder / name).is_file() or file_digest(folder / name) != checksum
    ]


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
