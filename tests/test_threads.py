from __future__ import annotations

import contextlib

import torch

from dpo_bench.threads import one_thread


def test_the_number_of_threads_comes_back_also_after_an_error() -> None:
    torch.set_num_threads(2)
    inside = 0
    with contextlib.suppress(RuntimeError), one_thread():
        inside = torch.get_num_threads()
        raise RuntimeError
    after = torch.get_num_threads()
    torch.set_num_threads(1)
    assert (inside, after) == (1, 2)
