"""What this process may use of its machine: by its affinity and its control group's limits."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: by its affinity, and by its control group's share of time.

    Args:
        cgroup: where the system shows the limits of this process's group (Linux, version 2 or 1).
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if not quota:
        quota, period = (
            _read(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")
        )
    if quota.isdecimal() and period.isdecimal() and int(period):
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def available_memory(cgroup: Path = CGROUP) -> int:
    """Bytes of memory that this process may use, likewise."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        limit = _read(file)
        if limit.isdecimal():
            memory = min(memory, int(limit))
    return memory


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""
