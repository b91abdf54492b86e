"""Where in the code a process is, asked from outside while it answers nothing else."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import sysconfig
import time
from pathlib import Path

SIGNAL = getattr(signal, "SIGUSR1", None)
"""None on a system that has no such signals: nothing is answered there."""
SECONDS_TO_ANSWER = 2.0
FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$', re.MULTILINE)
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def answer_into(file: Path) -> None:
    """Have this process write its stack into a file whenever it is sent `SIGNAL`.

    It is written by the handler itself, so also while a library holds the interpreter.
    """
    if SIGNAL is not None:
        faulthandler.register(SIGNAL, file=file.open("w"), all_threads=False)


def place_of(pid: int, file: Path) -> str:
    """Where a process is that answers into a file, such as ``my_loss.py, line 7``.

    It is the innermost line that is not of Python's library or of an installed package; empty where
    it does not answer.
    """
    if SIGNAL is None:
        return ""
    with contextlib.suppress(OSError):
        before = file.stat().st_size
        os.kill(pid, SIGNAL)
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while time.monotonic() < deadline:
            time.sleep(0.05)
            stack = file.read_bytes()[before:].decode(errors="replace")
            if stack.endswith("\n") and (frames := FRAME.findall(stack)):
                own = [frame for frame in frames if not frame[0].startswith(INSTALLED)]
                name, line, _function = (own or frames)[0]
                return f"{Path(name).name}, line {line}"
    return ""
