"""How many of torch's threads a piece of work takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in a block, whatever it uses around it.

    Tiny models are hardly faster on two, and on a busy machine many times slower. And the order of
    sums, so the last bits of a result, no longer depends on the machine's number of cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
