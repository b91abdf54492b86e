"""Where workers run: processes of this machine or of a launcher, or actors of a Ray cluster."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from dpo_bench.launcher import launched_size
from dpo_bench.sweep.executors.base import Executor, ExecutorName

__all__ = ["Executor", "ExecutorName", "make_executor"]


def make_executor(
    name: ExecutorName, folder: Path, processes: int
) -> AbstractContextManager[Executor]:
    """The executor of this name, which is there while the context is open.

    Under a launcher (torchrun, Slurm), ``local`` means the processes that it has started.

    Args:
        name: ``local`` or ``ray``.
        folder: the sweep's folder.
        processes: how many the workers will have together, as far as is known.

    Raises:
        EnvironmentProblem: its package is not installed; when the context is opened, its cluster is
            not reached.
    """
    if name == "ray":
        from dpo_bench.sweep.executors.ray import load_ray, ray_executor

        return ray_executor(load_ray(), folder, processes)
    if launched_size() > 1:
        from dpo_bench.sweep.executors.launched import launched_executor

        return launched_executor()
    from dpo_bench.sweep.executors.local import local_executor

    return local_executor()
