"""A limit in time for code that is not ours: a plug-in's loss, a model's chat template."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class DeadlineError(BaseException):
    """The block was not done in time; its traceback ends where it was.

    No `Exception`: code that is not ours, and the checks of it, go on after those.
    """


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End a block with `DeadlineError` when it takes longer.

    By a timer's signal, so only in the main thread and where the system has such timers: elsewhere
    there is no limit. Code that never gives the interpreter back is not reached by it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise DeadlineError(f"not done after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
