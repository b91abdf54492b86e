"""Checkpoints: everything that a run needs to go on bit by bit as if it had never stopped.

A checkpoint is a folder that appears when it is complete; then the one before it goes. Its tensors
are in safetensors files, as torch's distributed checkpoints have them: of each rank its share,
written one after another and never a second time whole in memory, to be read by any number of
ranks.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from dpo_bench.storage import digest, file_digest, sync, write_json

if TYPE_CHECKING:
    from dpo_bench.model.ranks import Ranks

log = logging.getLogger(__name__)

RECORD, METRICS, STATE = "record.json", "metrics.safetensors", "state"
NAME = "step-"
"""How the names of checkpoints begin in a run's folder."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """How far a run had come.

    Attributes:
        step: the next step to make.
        seconds: training time so far.
        expected: what the first step's loss had to be at the reference; None where unknown.
        metrics: of the steps made so far, shape [step, metric].
        state: folder of everything that a step changes; None until it is saved.
    """

    step: int
    seconds: float
    expected: float | None
    metrics: Tensor
    state: Path | None = None

    def save(self, folder: Path, save_state: Callable[[Path], object]) -> None:
        """Write it beside what is there, and then remove that.

        Args:
            folder: of the run's checkpoints.
            save_state: writes everything that a step changes into a folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{NAME}", dir=folder))
        try:
            save_state(new / STATE)
            save_file({"metrics": self.metrics}, new / METRICS)
            files = [file for file in sorted(new.rglob("*")) if file.is_file()]
            record: dict[str, Any] = {
                "step": self.step,
                "seconds": self.seconds,
                "expected": self.expected,
                "digests": {str(file.relative_to(new)): file_digest(file) for file in files},
            }
            write_json(new / RECORD, {**record, "digest": digest(record)})
            for file in (*files, new / STATE, new):
                sync(file)
            final = folder / f"{NAME}{self.step:09d}"
            shutil.rmtree(final, ignore_errors=True)
            new.rename(final)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        sync(folder)
        for other in folder.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> Checkpoint | None:
        """A run's latest checkpoint; None when there is none that is whole."""
        for one in sorted(folder.glob(f"{NAME}*"), reverse=True):
            try:
                return cls._read(one)
            except (OSError, ValueError, KeyError, TypeError) as error:
                # The run starts again from its first step.
                log.warning("the checkpoint %s is damaged (%s): it is left aside", one, error)
        return None

    @classmethod
    def _read(cls, folder: Path) -> Checkpoint:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record.pop("digest") != digest(record):
            raise ValueError(f"{RECORD} was changed")
        for name, expected in record["digests"].items():
            if file_digest(folder / name) != expected:
                raise ValueError(f"{name} was changed")
        metrics = load_file(folder / METRICS)["metrics"]
        return cls(record["step"], record["seconds"], record["expected"], metrics, folder / STATE)


def save_tensors(folder: Path, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    """Write tensors, some of them divided among ranks; on all ranks, within a call."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(_of_some_length(tensors), storage_writer=writer, **_group(ranks))


def load_tensors(folder: Path, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    """Fill tensors with what `save_tensors` wrote, on any number of ranks; likewise.

    Raises:
        ValueError: these are other tensors.
    """
    reader = HuggingFaceStorageReader(str(folder))
    names = set(reader.read_metadata().state_dict_metadata)
    if names != set(tensors):
        raise ValueError(f"a checkpoint of another run: {min(names ^ set(tensors))} differs")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        load(_of_some_length(tensors), storage_reader=reader, **_group(ranks))


def _of_some_length(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same memory, single numbers as vectors of one: a slice of a number cannot be read."""
    return {name: one if one.dim() else one[None] for name, one in tensors.items()}


def _group(ranks: Ranks) -> dict[str, Any]:
    return {"no_dist": True} if ranks.alone else {"process_group": ranks.control}
