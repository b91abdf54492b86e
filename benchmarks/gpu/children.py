"""A process for each contender, ended when its time is up, whose figures are kept as they come."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.jobs import JOBS
from dpo_bench.model.allocator import use_expandable_segments

LINES = "lines.jsonl"
PRELOAD = (
    "benchmarks.gpu.jobs",
    "datasets",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers",
)
"""Imported once, by the server that all processes come from; none of it asks for a GPU."""


def context() -> BaseContext:
    """How processes are made: from a server that has imported the heavy libraries once."""
    # A question for a GPU by way of the driver would keep the forked processes from having it.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([name for name in PRELOAD if _is_there(name)])
    return found


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def append(folder: Path, line: dict[str, Any]) -> None:
    """Add a line that is there even if the machine is taken away at the next moment."""
    with (folder / LINES).open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def attempt(number: int, bench: Bench, folder: Path, turn: int) -> None:
    """Entry point of a contender's process: its figures, and what became of it."""
    os.setsid()  # so that whatever it starts is ended with it
    job = JOBS[number]
    log = (folder / "logs").joinpath(f"{number}-{turn}.txt").open("w")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    use_expandable_segments()

    def say(line: dict[str, Any]) -> None:
        append(folder, {"job": job.name, "turn": turn, **line})

    status = "done"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DPO_BENCH_CACHE"] = os.environ["HF_DATASETS_CACHE"] = cache
        try:
            assert job.run is not None
            job.run(bench, say, **job.options)
        except Exception as error:  # whatever a contender fails of is its result
            traceback.print_exc(file=log)
            log.flush()
            text = " ".join(str(error).split())[:300]
            status = f"failed: {type(error).__name__}: {text}"
    say({"status": status})


def run_job(
    number: int, bench: Bench, folder: Path, turn: int, seconds: float, context: BaseContext
) -> float:
    """Let a contender have its turn; returns the seconds it took."""
    started = time.perf_counter()
    process: Any = context.Process(  # type: ignore[attr-defined]
        target=attempt, args=(number, bench, folder, turn)
    )
    process.start()
    process.join(seconds)
    status = ""
    if process.is_alive():
        status = f"not finished in {seconds:.0f} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    elif process.exitcode:
        status = f"failed: its process ended with {process.exitcode}"
    if status:
        append(folder, {"job": JOBS[number].name, "turn": turn, "status": status})
    return time.perf_counter() - started
