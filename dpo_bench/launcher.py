"""Whether torchrun, Slurm or another launcher has started this process as one of several."""

from __future__ import annotations

import os

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which the processes find each other, as torch names them."""


def launched_size() -> int:
    """How many processes a launcher has started; 1 without one."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in NEEDED) else 1


def follows() -> bool:
    """Whether this process is one of those that the first one leads."""
    return launched_size() > 1 and os.environ["RANK"] != "0"
