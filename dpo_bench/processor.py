"""The processor: besides the libraries' versions, what the last bits of a result depend on."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """Architecture, the instructions that torch uses, and the maker's name where Linux tells it."""
    import torch

    name = _name()
    found = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{found} ({name})" if name else found


def _name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((one.partition(":")[2].strip() for one in lines if one[:10] == "model name"), "")
