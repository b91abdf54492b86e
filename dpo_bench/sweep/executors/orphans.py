"""A worker dies with the sweep that started it, however that ends and whatever the worker is at.

A sweep that is killed (by a scheduler, for lack of memory) cannot end its workers any more. One
that hangs would hold its memory and its GPU for ever, and a sweep that is started again would run
beside it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading


def die_with_parent() -> None:
    """From now on this process is killed when the one that started it is gone.

    Python gives a process that it starts one end of a pipe, which the starting one holds open as
    long as it lives. On Linux the kernel itself sends SIGKILL at its end, so that code which never
    gives the interpreter back (a regular expression, a library) cannot hold it up; elsewhere a
    thread waits for it.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        import fcntl

        pipe = parent.sentinel
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
        if parent.is_alive():  # else the signal was missed
            return
    threading.Thread(target=_wait, args=(parent,), daemon=True).start()


def _wait(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
