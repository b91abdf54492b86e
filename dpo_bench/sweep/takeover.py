"""What a sweep takes over from earlier runs: only what is whole, and is what it is called.

Every file of a finished trial is held against its digest, each once in a process, and the trial
against its identity. What does not hold is told in a line and done again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.errors import DamagedError
from dpo_bench.ledger import copy_of
from dpo_bench.storage import MANIFEST, Sealed, canonical_json, has_digest, read_record, seal
from dpo_bench.sweep.store import REFERENCE, Manifest, Store, write_manifest
from dpo_bench.sweep.trials import manifest_of

if TYPE_CHECKING:
    from dpo_bench.experiment import PlannedTrial
    from dpo_bench.experiment.config import Training
    from dpo_bench.sweep.display import Display
    from dpo_bench.sweep.task import Task

THREADS = 8
"""That read files at once; a disk gives more to several."""


class Takeover:
    """Looks at what is there.

    Args:
        store: the sweep's folder.
        training: the sweep's ``[training]``.
        display: is told what is damaged.
    """

    def __init__(self, store: Store, training: Training, display: Display) -> None:
        self.store = store
        self.training = training
        self.display = display

    def tell_of_own_files(self) -> None:
        """Tell of the folder's own files that are damaged; they are all written anew."""
        copy = copy_of(self.store.experiment_file)
        for file in (copy, self.store.search_file):
            with contextlib.suppress(FileNotFoundError):
                self._tell_unless_whole(file)
        try:
            wrong = self.store.ledger.damaged()
        except DamagedError:
            wrong = [MANIFEST]
        for name in wrong:
            self.display.note(f"{name} is damaged; written again", warning=True)

    def _tell_unless_whole(self, file: Path) -> None:
        try:
            read_record(file)
        except DamagedError:
            self.display.note(f"{file.name} is damaged; written again", warning=True)

    def look(self, tasks: Sequence[Task]) -> None:
        """Read all that is there of these trials, many at once; later looks find it known."""
        there = [one.identity for one in tasks if self.store.trial_folder(one.identity).is_dir()]
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            for done, _ in enumerate(pool.map(self.store.damage, there), start=1):
                self.display.phase("checking what is there", done, len(there))

    def manifest(self, trial: PlannedTrial, identity: str) -> Manifest | None:
        """The manifest of a trial that is there and whole; None: it is to be done."""
        folder = self.store.trial_folder(identity)
        if not folder.is_dir() or folder.is_symlink():
            return None
        wrong = self.store.damage(identity)
        manifest = self.store.manifest(identity)
        if not wrong and manifest is not None and not self.is_of(trial, manifest):
            wrong = [MANIFEST]
            (folder / MANIFEST).unlink()  # whole in itself, it would stay in the new one's place
        if wrong or manifest is None:
            self._tell(f"trial {identity}", wrong)
            return None
        if not has_digest(folder / MANIFEST):
            write_manifest(folder, manifest)
        return manifest

    def reuse(self, trial: PlannedTrial, identity: str) -> bool:
        """Whether a neighboring sweep has the trial, whole; then it is taken over."""
        return self.store.reuse(identity, lambda found: self.is_of(trial, found))

    def is_of(self, trial: PlannedTrial, manifest: Manifest) -> bool:
        """Whether a manifest says what the trial of this identity is."""
        meant = _said(manifest_of(trial, manifest.trial, manifest.status, self.training))
        found = _said(manifest)
        training = found.pop("training") or {}  # older ones say nothing, or less
        wanted = meant.pop("training")
        return found == meant and training == {key: wanted.get(key) for key in training}

    def has_reference(self) -> bool:
        """Whether the reference's evaluation is there and whole."""
        folder = self.store.reference_folder
        if not folder.is_dir() or folder.is_symlink():
            return False
        if not (folder / MANIFEST).exists() and _can_be_read(folder):
            seal(folder)  # of an older version, which gave it none
        try:
            wrong = self.store.reference().damaged() if (folder / MANIFEST).exists() else [MANIFEST]
        except DamagedError:
            wrong = [MANIFEST]
        if wrong:
            self._tell(REFERENCE, wrong)
        return not wrong

    def _tell(self, what: str, wrong: Sequence[str]) -> None:
        verb = "is" if len(wrong) == 1 else "are"
        text = f"{what}: {', '.join(wrong)} {verb} damaged; done again"
        self.display.note(text, warning=True)


def _said(manifest: Manifest) -> dict[str, Any]:
    """What a manifest says that its trial is, as it is written."""
    names = ("loss", "strength", "beta", "hyperparameters", "seed", "training")
    said = {name: getattr(manifest, name) for name in names}
    return dict(json.loads(canonical_json(said)))


def _can_be_read(folder: Path) -> bool:
    """Whether the tables of a folder without digests are whole, as far as can be seen."""
    files = Sealed(folder, {}, None)
    try:
        for file in folder.glob("*.parquet"):
            files.read_parquet(file.name)
        files.read_json("evaluation.json")
    except DamagedError:
        return False
    return True
