"""Where workers run: processes of this machine, or actors of a Ray cluster."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from dpo_bench.sweep.executors.base import Executor, ExecutorName

__all__ = ["Executor", "ExecutorName", "make_executor"]


def make_executor(
    name: ExecutorName, folder: Path, workers: int | None
) -> AbstractContextManager[Executor]:
    """The executor of this name, which is there while the context is open.

    Args:
        name: ``local`` or ``ray``.
        folder: the sweep's folder.
        workers: how many will be asked for, or None.

    Raises:
        EnvironmentProblem: its package is not installed; when the context is opened, its cluster is
            not reached.
    """
    if name == "ray":
        from dpo_bench.sweep.executors.ray import load_ray, ray_executor

        return ray_executor(load_ray(), folder, workers)
    from dpo_bench.sweep.executors.local import local_executor

    return local_executor()
