"""How torch hands out a GPU's memory; to be said before it touches the GPU. Loads no torch.

Every pass has another shape. Segments that can grow keep what is free in one piece, where fixed
ones would leave gaps that nothing fits into.
"""

from __future__ import annotations

import importlib.metadata
import os
import re

OPTION = "expandable_segments:True"
OLD, NEW = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"
RENAMED = (2, 9)
"""Version of torch from which the variable has its new name; it still reads the old one."""


def use_expandable_segments() -> None:
    """Ask for segments that can grow, unless the user has asked for anything."""
    if OLD not in os.environ and NEW not in os.environ:
        os.environ[_variable(importlib.metadata.version("torch"))] = OPTION


def _variable(version: str) -> str:
    """The variable that a version of torch reads.

    >>> _variable("2.8.0+cu128"), _variable("2.11.0")
    ('PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_ALLOC_CONF')
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return NEW if numbers >= RENAMED else OLD
