"""The shim that lets a disk fail, compiled when it is needed."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
VARIABLE = "LD_PRELOAD"
POINTS = ("write", "fsync", "rename", "mkdir", "link", "lock", "read")
"""Operations that can be made to fail."""


def can_fail() -> bool:
    """Whether this machine has what it takes: Linux and a C compiler."""
    return sys.platform == "linux" and shutil.which("cc") is not None


def start_again_with_faults() -> None:
    """Run this very program again with the shim loaded, unless it is; does not return then."""
    if VARIABLE in os.environ and "faults" in os.environ[VARIABLE]:
        return
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    library = folder / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    environment = {**os.environ, VARIABLE: str(library)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def arm(
    folder: Path, operation: str, nth: int, error: int = 0, *, sticky: bool = False
) -> Callable[[], None]:
    """A function that, called in a process, arms the shim for it and all that it forks.

    Args:
        folder: only what happens below it counts.
        operation: one of `POINTS`.
        nth: from 1.
        error: number of the error; 0: the process group is killed.
        sticky: all later ones fail as well.
    """

    def armed() -> None:
        where, what = str(folder).encode(), operation.encode()
        ctypes.CDLL(None).faults_arm(where, what, ctypes.c_long(nth), error, int(sticky))

    return armed


def counted(folder: Path, operation: str, into: Path) -> Callable[[], None]:
    """A function that, called in a process, has it count operations and say how many at its end."""

    def armed() -> None:
        arm(folder, operation, -1)()
        leave = os._exit

        def say_and_leave(code: int) -> None:
            into.write_text(str(ctypes.CDLL(None).faults_seen()))
            leave(code)

        if os.getpid() == os.getpgrp():
            os._exit = say_and_leave  # type: ignore[assignment]

    return armed
