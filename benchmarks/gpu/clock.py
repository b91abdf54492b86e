"""Time of steps without waiting in them, synchronizations of one step, and peak memory."""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from typing import Any

import torch

from benchmarks.versus_trl.contenders import peak_memory

SYNCHRONIZED = "called a synchronizing CUDA operation"
GEMM, DRY_GEMM = 8192, 128


class StepClock:
    """Is told after every step; the last step is one whose synchronizations are counted.

    On a GPU an event is recorded after each step, so that no step waits to be timed.

    Args:
        device: ``cpu`` or ``cuda``.
        warm: steps that are not timed.
        timed: steps that are; one more follows.
    """

    def __init__(self, device: str, warm: int, timed: int) -> None:
        self.device, self.warm, self.timed = device, warm, timed
        self.marks: list[Any] = []
        self.syncs: int | None = None
        self._caught: Any = None
        self._warnings: list[Any] = []
        reset_peak(device)

    def tick(self, *_: object) -> None:
        """A step has been made."""
        if self.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())
        if self.device == "cuda" and len(self.marks) == self.warm + self.timed:
            self._caught = warnings.catch_warnings(record=True)
            self._warnings = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        elif self._caught is not None:
            torch.cuda.set_sync_debug_mode("default")
            self.syncs = sum(SYNCHRONIZED in str(one.message) for one in self._warnings)
            self._caught.__exit__(None, None, None)
            self._caught = None

    def seconds(self) -> list[float]:
        """Of each timed step."""
        kept = self.marks[self.warm - 1 : self.warm + self.timed]
        if self.device == "cuda":
            torch.cuda.synchronize()
            return [one.elapsed_time(next_) / 1e3 for one, next_ in itertools.pairwise(kept)]
        return [next_ - one for one, next_ in itertools.pairwise(kept)]


def reset_peak(device: str) -> None:
    """Forget the peak so far."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> dict[str, int]:
    """Most bytes since: that torch handed out and that it held on a GPU, or of the process."""
    if device == "cuda":
        return {
            "peak_allocated": torch.cuda.max_memory_allocated(),
            "peak_reserved": torch.cuda.max_memory_reserved(),
        }
    return {"peak_allocated": peak_memory(), "peak_reserved": peak_memory()}


def seconds_of(work: Any, device: str, repeats: int = 10) -> float:
    """Median seconds of a call, after one that is not counted."""
    work()
    found: list[float] = []
    for _ in range(repeats):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 1e3)
        else:
            started = time.perf_counter()
            work()
            found.append(time.perf_counter() - started)
    return statistics.median(found)


def gemm_tflops(device: str, *, dry: bool) -> float:
    """TFLOP/s of a square matrix product in bf16: what shares are taken of."""
    size = DRY_GEMM if dry else GEMM
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: left @ right, device) / 1e12
