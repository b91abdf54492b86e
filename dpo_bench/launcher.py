"""Whether torchrun, Slurm or another launcher has started this process as one of several.

And what a request to end means then: the first process saves and ends, with the others' help.
"""

from __future__ import annotations

import os
import signal
import time

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which the processes find each other, as torch names them."""
SECONDS_OF_ECHO = 5.0
"""So long after a signal another one is the same, which the launcher has passed on."""


def launched_size() -> int:
    """How many processes a launcher has started; 1 without one."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in NEEDED) else 1


def follows() -> bool:
    """Whether this process is one of those that the first one leads."""
    return launched_size() > 1 and os.environ["RANK"] != "0"


def heed_signals() -> None:
    """Have a scheduler's SIGTERM mean what Ctrl-C does: what runs is saved and can be resumed.

    Under a launcher both reach all processes, and often twice: from the terminal or scheduler, and
    from the launcher. Those that follow take part in saving until the first lets them go, and
    hear none; the first takes what comes at once after a signal for the same one.
    """
    if launched_size() == 1:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return
    last = float("-inf")

    def interrupt(_signal: int, _frame: object) -> None:
        nonlocal last
        is_echo, last = time.monotonic() - last < SECONDS_OF_ECHO, time.monotonic()
        if not is_echo:
            raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, signal.SIG_IGN if follows() else interrupt)
