"""A sweep from its experiment to its report."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.experiment import Experiment, Trial, conditions, plan_trials, trial_id
from dpo_bench.storage import published_folder
from dpo_bench.sweep.display import Display
from dpo_bench.sweep.opponents import write_opponents
from dpo_bench.sweep.pool import Pool, Task, WorkerDiedError
from dpo_bench.sweep.results import write_results
from dpo_bench.sweep.sources import Sources, find_sources
from dpo_bench.sweep.store import Store, link_files, seal
from dpo_bench.sweep.trials import manifest_of
from dpo_bench.sweep.worker import Job, Ready

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("dpo_bench", "torch", "transformers", "tokenizers", "numpy", "vaderSentiment")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep came to.

    Attributes:
        folder: the sweep's folder.
        report: its page.
        results: the results table, a row per trial.
        computed: trials done by this run; the others were there already.
    """

    folder: Path
    report: Path
    results: pd.DataFrame
    computed: int

    @property
    def failed(self) -> int:
        """Number of failed trials."""
        return int((self.results["status"] == "failed").sum())


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for.

    Attributes:
        experiment: the resolved configuration.
        folder: the sweep's folder.
        command: as typed, for the report.
        workers: number of workers, or None to choose.
        plugins: folders of further losses.
    """

    experiment: Experiment
    folder: Path
    command: str
    workers: int | None = None
    plugins: tuple[Path, ...] = ()


def run_sweep(request: Request, display: Display) -> Outcome:
    """Do what is missing of a sweep, then write its table and report.

    Raises:
        LockedError: another process works in the folder.
        DpoBenchError: the experiment, the machine or the data does not allow it.
        KeyboardInterrupt: Ctrl-C; what was running has been saved.
    """
    from dpo_bench.report import write_report

    store = Store(request.folder)
    trials = plan_trials(request.experiment)
    with store.locked(), display:
        sources = find_sources(request.experiment, display.phase)
        shared = conditions(request.experiment, sources.content)
        tasks = [(trial, trial_id(trial, shared)) for trial in trials]
        store.open(_record(request, sources, shared, tasks))
        missing = [task for task in tasks if not _is_there(store, task[1])]
        if missing:
            _run_missing(request, store, sources, missing, display)
        identities = [identity for _, identity in tasks]
        results = write_results(store, identities)
        _write_opponents(request.experiment, store, identities, display)
        display.note("writing the report")
        report = write_report(request.folder)
    return Outcome(request.folder, report, results, len(missing))


def _write_opponents(
    experiment: Experiment, store: Store, identities: Sequence[str], display: Display
) -> None:
    """Everyone against everyone: by stored rewards; by a judge, which costs, only on request."""
    from dpo_bench.evaluation.judge import Judge
    from dpo_bench.evaluation.rewards import find_reward

    options = experiment.evaluation
    judge = find_reward(options) if options.judge_round_robin else None
    write_opponents(store, identities, judge if isinstance(judge, Judge) else None, display.phase)


def _is_there(store: Store, identity: str) -> bool:
    manifest = store.manifest(identity)
    return (manifest is not None and manifest.is_final) or store.adopt(identity)


def _run_missing(
    request: Request, store: Store, sources: Sources, missing: Sequence[Task], display: Display
) -> None:
    def keep_shared(ready: Ready) -> None:
        store.add_to_record({"data": ready.counts})
        if not store.reference_folder.is_dir():
            with published_folder(store.reference_folder) as folder:
                link_files(ready.reference, folder)

    def record_death(task: Task, reason: WorkerDiedError) -> None:
        trial, identity = task
        with store.new_trial(identity) as folder:
            seal(
                folder,
                manifest_of(
                    trial, identity, "failed", error=str(reason), cause=type(reason).__name__
                ),
            )

    lora = request.experiment.training.lora is not None
    workers = request.workers or choose_workers(sources, len(missing), lora=lora)
    threads = 1 if _weight_bytes(sources) < SMALL else max(1, (os.cpu_count() or 1) // workers)
    job = Job(request.experiment, sources, request.folder.resolve(), request.plugins, threads)
    Pool(job, workers, display, keep_shared, record_death).run(missing)


SMALL = 50_000_000
"""Bytes of weights below which a second thread costs more, in waiting for it, than it brings."""
BYTES_PER_WEIGHT_BYTE = 6
"""Memory of a worker per byte of weights: policy, reference, start, gradient, two moments."""
LORA_BYTES_PER_WEIGHT_BYTE = 4
"""The same where only an adapter is trained: the model once, and what a step takes besides; on
SmolLM2-135M it was 3.8 (docs/lora.md)."""


def choose_workers(sources: Sources, trials: int, *, lora: bool = False) -> int:
    """One worker per GPU; on a CPU one single-threaded worker per core, as far as memory goes.

    On a CPU two workers of one thread each do more than one of two threads.
    """
    if sources.device == "cuda":
        return 1
    weights = _weight_bytes(sources)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = weights * (LORA_BYTES_PER_WEIGHT_BYTE if lora else BYTES_PER_WEIGHT_BYTE)
    fitting = int(0.5 * memory / max(1, needed))
    return max(1, min(os.cpu_count() or 1, fitting, trials))


def _weight_bytes(sources: Sources) -> int:
    return sum(file.stat().st_size for file in sources.policy.path.glob("*.safetensors"))


def _record(
    request: Request, sources: Sources, shared: dict[str, Any], tasks: Sequence[tuple[Trial, str]]
) -> dict[str, Any]:
    return {
        "experiment": request.experiment.settings(),
        "conditions": shared,
        "command": request.command,
        "versions": {"python": platform.python_version(), **_versions(request.experiment)},
        "platform": f"{platform.system()} {platform.machine()}, {sources.content.device}",
        "hashes": {
            name: getattr(sources.content, name) for name in ("policy", "reference", "data")
        },
        "trials": [identity for _, identity in tasks],
    }


def _versions(experiment: Experiment) -> dict[str, str]:
    found = {}
    for package in (*PACKAGES, *(["peft"] if experiment.training.lora else [])):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # used from a checkout without being installed
            continue
    return found
