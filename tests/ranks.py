"""Real groups of processes that hold a model together, under gloo."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 60.0


def run_on_ranks(size: int, folder: Path, function: Callable[..., Any], *args: Any) -> Any:
    """What a function gives on the leading one of so many ranks, which is its first argument.

    Args:
        size: number of processes.
        folder: new, for the file by which they meet.
        function: of a module's top level.
        args: can be pickled, as can what it gives.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ranks", "dpo_bench.sweep.preload"])
    ours, theirs = context.Pipe()
    folder.mkdir(parents=True)
    processes = [
        context.Process(
            target=_rank,
            args=(rank, size, f"file://{folder}/meet", theirs if rank == 0 else None),
            kwargs={"function": function, "args": args},
            daemon=True,
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    theirs.close()
    try:
        if not ours.poll(SECONDS):
            raise TimeoutError(f"{size} ranks gave nothing in {SECONDS:g} s")
        found = pickle.loads(ours.recv_bytes())  # of this test
        for process in processes:
            process.join(30)
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
    if isinstance(found, BaseException):
        raise found
    assert codes == [0] * size
    return found


def _rank(
    rank: int,
    size: int,
    rendezvous: str,
    pipe: Any,
    *,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    import torch

    from dpo_bench.model.ranks import Ranks

    torch.set_num_threads(1)
    ranks = Ranks.join(rank, size, rendezvous)
    if rank:
        ranks.follow()
        return
    try:
        found = function(ranks, *args)
    except BaseException as error:
        pipe.send_bytes(pickle.dumps(error))
        raise
    ranks.end()
    pipe.send_bytes(pickle.dumps(found))
