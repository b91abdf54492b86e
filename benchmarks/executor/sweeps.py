"""Whole sweeps of simulated workers: planned, led, recorded and collected by the program itself."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

from benchmarks.executor.workers import Account, Cluster, SimulatedExecutor
from dpo_bench.analysis.metrics import METRICS
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.read import validate
from dpo_bench.storage import write_json, write_parquet
from dpo_bench.sweep import run as sweep_run
from dpo_bench.sweep.display import PlainDisplay
from dpo_bench.sweep.executors.base import WorkerDiedError
from dpo_bench.sweep.store import Store, link_files, write_manifest
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.trials import manifest_of
from dpo_bench.sweep.worker import Job

MOST_COMMANDS = 20
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep came to.

    Attributes:
        trials: of the sweep.
        cluster: on which it ran.
        account: where the workers' time went.
        hours: of the cluster, by command.
        messages: that the pool has handled.
        planning: CPU seconds of the process that leads, of reading, planning and looking what is
            there.
        leading: likewise, while workers are at work.
        collecting: likewise, of the results' table.
        memory: bytes by which the process grew at most, the simulated workers in it.
    """

    trials: int
    cluster: Cluster
    account: Account
    hours: tuple[float, ...]
    messages: int
    planning: float
    leading: float
    collecting: float
    memory: int

    @property
    def seconds(self) -> float:
        """CPU seconds of the process that leads."""
        return self.planning + self.leading + self.collecting


def experiment(trials: int) -> Experiment:
    """One of so many trials: a strength for each ten seeds."""
    seeds = min(10, trials)
    strengths = np.geomspace(0.01, 10, math.ceil(trials / seeds))
    return validate(
        {
            "name": "simulated",
            "policy": "world:reviews",
            "preferences": "world:reviews",
            "training": {"seeds": list(range(seeds)), "steps": 100, "learning_rate": 1e-3},
            "losses": [{"name": "dpo", "beta": [float(one) for one in strengths]}],
        },
        "benchmarks.executor",
    )


def simulate(trials: int, cluster: Cluster, folder: Path) -> Outcome:
    """Give the same command until no trial is left to do.

    Args:
        trials: how many.
        cluster: on which they run.
        folder: new; of memory rather than of a disk, which is not what is measured.

    Raises:
        AssertionError: a trial was lost, or done twice.
    """
    asked = sweep_run.SweepRequest(
        experiment(trials), folder / "sweep", "simulated", workers=cluster.workers
    )
    template = _template(folder / "template")
    account, checkpoints, lengths = Account(), {}, {}  # type: ignore[var-annotated]
    hours, messages = [], 0
    clock = {"planning": 0.0, "leading": 0.0, "collecting": 0.0}
    before = _begin_peak()
    for command in range(MOST_COMMANDS):
        executor = SimulatedExecutor(
            cluster,
            template / "reference",
            lambda job, task: _publish(template, job, task),
            account,
            checkpoints,
            lengths,
            command,
        )
        outcome = None
        with suppress(WorkerDiedError):  # the first worker, before there was another
            outcome = _command(asked, executor, clock)
        hours.append(executor.now / 3600)
        messages += executor.messages
        if outcome is not None and not outcome.failed:
            break
    assert outcome is not None, "no command came to its end"
    _require_all_once(outcome, account)
    return Outcome(
        trials, cluster, account, tuple(hours), messages, **clock, memory=_peak() - before
    )


def alone(trials: int, cluster: Cluster) -> Outcome:
    """A sweep in a process of its own, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measured, trials, cluster).result()


def measured(trials: int, cluster: Cluster) -> Outcome:
    """A sweep after a small one, which has imported everything."""
    folder = Path(tempfile.mkdtemp(prefix="dpo-bench-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        simulate(4, Cluster(2), folder / "first")
        return simulate(trials, cluster, folder / "second")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(
    asked: sweep_run.SweepRequest, executor: SimulatedExecutor, clock: dict[str, float]
) -> sweep_run.SweepOutcome:
    """The program's own run of a sweep, with CPU seconds added to the clock by what they went to.

    The report's page is left out.
    """
    marks = [time.process_time()]

    @contextmanager
    def opening(*_: object) -> Iterator[SimulatedExecutor]:
        marks.append(time.process_time())
        yield executor
        marks.append(time.process_time())

    with (
        mock.patch.object(sweep_run, "make_executor", opening),
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
    ):
        display = PlainDisplay(lambda line: print(line, file=nowhere))
        outcome = sweep_run.run(asked, display, lambda folder: folder / "report.html")
    marks.append(time.process_time())
    spent = dict(zip(clock, np.diff(marks).tolist(), strict=True))
    spent["leading"] -= executor.watch.seconds
    for name, seconds in spent.items():
        clock[name] += seconds
    return outcome


def _template(folder: Path) -> Path:
    """Artefacts of a trial and of the reference, small, whose figures mean nothing."""
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 2}
    evaluation: dict[str, Any] = {
        "metrics": {metric.name: estimate for metric in METRICS},
        "initial_loss": 0.69,
        "initial_loss_expected": 0.69,
        "steps": 100,
        "notes": {},
    }
    samples = pd.DataFrame({"prompt_id": [0, 1], "sample": [0, 0], "reward": [math.nan] * 2})
    prompts = pd.DataFrame({"prompt_id": [0, 1], "chosen_reward": [math.nan] * 2})
    for name in ("trial", "reference"):
        (folder / name).mkdir(parents=True)
        write_json(folder / name / "evaluation.json", evaluation)
        write_parquet(folder / name / "samples.parquet", samples)
    write_parquet(folder / "reference" / "prompts.parquet", prompts)
    return folder


def _publish(template: Path, job: Job, task: Task) -> None:
    with Store(job.folder).new_trial(task.identity) as folder:
        link_files(template / "trial", folder)
        manifest = manifest_of(
            task.trial, task.identity, "done", job.experiment.training, seconds={"training": 1.0}
        )
        write_manifest(folder, manifest)


def _require_all_once(outcome: sweep_run.SweepOutcome, account: Account) -> None:
    """By what the workers did, and by what lies in the folder."""
    table = outcome.table
    planned = [str(one) for one in table["trial"]]
    assert set(account.published) == set(planned), "a trial was lost"
    assert len(planned) == len(set(planned))
    assert set(account.published.values()) == {1}, "a trial was done twice"
    assert (table["status"] == "done").all(), "a trial is still to be done"
    folders = [one for one in (outcome.folder / "trials").iterdir() if one.name[0] != "."]
    assert len(folders) == len(planned)


def _begin_peak() -> int:
    """Have the kernel count this process's largest size from now on; returns its size."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {name}")
    return int(found[1]) * 1024
