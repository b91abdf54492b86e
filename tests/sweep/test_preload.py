"""What the server of the workers imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASKS_FOR_NO_GPU = """
import torch

asked_for = []

def asked(*_):
    asked_for.append(1)
    raise AssertionError("a GPU was asked for before the fork")

for name in ("is_available", "device_count", "current_device", "_lazy_init"):
    setattr(torch.cuda, name, asked)
import dpo_bench.sweep.preload
assert not asked_for, "and an import took no notice"
"""


@pytest.mark.slow
def test_it_asks_for_no_gpu_since_cuda_does_not_survive_a_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKS_FOR_NO_GPU], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
