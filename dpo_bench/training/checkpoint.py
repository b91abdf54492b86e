"""Checkpoints: everything that a run needs to go on bit by bit as if it had never stopped.

A checkpoint is a folder that appears when it is complete; then the one before it goes. Its tensors
are in safetensors files, as torch's distributed checkpoints have them: of each rank its share,
written one after another and never a second time whole in memory, to be read by any number of
ranks.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from dpo_bench.errors import DamagedError
from dpo_bench.storage import damaged, open_sealed, published_folder, remove, seal

if TYPE_CHECKING:
    from dpo_bench.model.ranks import Ranks

log = logging.getLogger(__name__)

METRICS, STATE = "metrics.safetensors", "state"
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
        final = folder / f"{NAME}{self.step:09d}"
        with published_folder(final) as new:
            save_state(new / STATE)
            save_file({"metrics": self.metrics}, new / METRICS)
            fields = {"step": self.step, "seconds": self.seconds, "expected": self.expected}
            seal(new, fields)
            remove(final)
        for other in folder.iterdir():
            if other != final:
                remove(other)

    @classmethod
    def load(cls, folder: Path) -> Checkpoint | None:
        """A run's latest checkpoint; None when there is none that is whole."""
        for one in sorted(folder.glob(f"{NAME}*"), reverse=True):
            try:
                return cls._read(one)
            except (DamagedError, FileNotFoundError, ValueError, KeyError) as error:
                # The run starts again from its first step.
                text = "the checkpoint %s is damaged (%s): it is left aside"
                log.warning(text, one, error, extra={"passing": True})
        return None

    @classmethod
    def _read(cls, folder: Path) -> Checkpoint:
        found = open_sealed(folder)
        if wrong := found.damaged():
            raise damaged(folder / wrong[0])
        metrics = load_file(folder / METRICS)["metrics"]
        step, seconds, expected = (found.fields[name] for name in ("step", "seconds", "expected"))
        return cls(step, seconds, expected, metrics, folder / STATE)


def save_tensors(folder: Path, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    """Write tensors, some of them divided among ranks; on all ranks, within a call."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _own_errors(), warnings.catch_warnings():
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
    with _own_errors(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        load(_of_some_length(tensors), storage_reader=reader, **_group(ranks))


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Let the first rank's own error through: torch's around it is no `Exception` of Python's."""
    try:
        yield
    except CheckpointException as error:
        for failure, _trace in error.failures.values():
            raise failure from None
        raise RuntimeError(str(error)) from error


def _of_some_length(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same memory, single numbers as vectors of one: a slice of a number cannot be read."""
    return {name: one if one.dim() else one[None] for name, one in tensors.items()}


def _group(ranks: Ranks) -> dict[str, Any]:
    return {"no_dist": True} if ranks.alone else {"process_group": ranks.control}
