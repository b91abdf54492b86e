"""Frozen weights that all workers of a machine have in memory once.

Each worker needs the reference, and with an adapter the policy's base is the reference too. Their
weights are put into a file, which every worker maps: the pages of a file are in memory once,
however many processes read them, and go where memory is short. What a process writes to them would
be its own.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from dpo_bench.cache import kept
from dpo_bench.errors import StorageError
from dpo_bench.storage import digest

log = logging.getLogger(__name__)

FILE = "weights.bin"
ALIGNED = 64
"""Bytes: as torch's own memory is. Where a matrix begins otherwise, its products may be rounded
otherwise."""
LEAST_BYTES = 1 << 26
"""Of a model that is worth a file."""


def worth_mapping(model: Any, precision: str) -> bool:
    """Whether a frozen model is put into a file: it is on a CPU, in fp32, and not small."""
    size = sum(one.nbytes for one in model.parameters())
    return model.device.type == "cpu" and precision == "fp32" and size >= LEAST_BYTES


def map_weights(model: Any, weights_digest: str) -> bool:
    """Let a model's parameters lie in a file of the cache, which is made where it is missing.

    Their values stay what they are, bit by bit. Without a place for the file the model stays as it
    is.

    Args:
        model: in fp32 on a CPU; is changed, and must not be trained from now on.
        weights_digest: of what it was loaded from.

    Returns:
        whether it is done.
    """
    places = list(_places(model))
    layout = [[name, start, *one.shape] for name, one, start in places]
    key = digest({"of": weights_digest, "layout": layout})
    size = max((start + one.numel() for _, one, start in places), default=0)
    try:
        folder = kept("mapped-weights", key, lambda new: _write(new / FILE, places, size)).folder
        mapped = torch.from_file(str(folder / FILE), shared=False, size=size, dtype=torch.float32)
    except (StorageError, OSError, RuntimeError) as error:
        log.info("each worker holds the frozen weights by itself: %s", error)
        return False
    for _, one, start in places:
        one.data = mapped[start : start + one.numel()].view(one.shape)
    _give_back()
    return True


def _give_back() -> None:
    """Give freed memory back to the system, where the C library would keep it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _places(model: Any) -> Iterator[tuple[str, Parameter, int]]:
    """Each parameter, tied ones once, with the place in the file at which it begins."""
    start = 0
    for name, one in model.named_parameters():
        if one.dtype == torch.float32:
            yield name, one, start
            start += -(-one.numel() * one.itemsize // ALIGNED) * ALIGNED // one.itemsize


def _write(file: Path, places: list[tuple[str, Parameter, int]], size: int) -> None:
    """Write them one by one, so that there is no second copy of all in memory."""
    with file.open("wb") as target:
        target.truncate(size * torch.float32.itemsize)
        for _, one, start in places:
            target.seek(start * torch.float32.itemsize)
            target.write(one.detach().contiguous().numpy().data)
