"""A sweep from its experiment to its report."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.analysis.results import SweepResults, read_sweep
from dpo_bench.cache import remove_old_leftovers
from dpo_bench.contract import get_loss
from dpo_bench.contract.registry import losses_of_script
from dpo_bench.errors import ConfigurationError, EnvironmentProblem
from dpo_bench.experiment import Experiment, PlannedTrial, conditions, plan_trials, trial_id
from dpo_bench.experiment.defaults import settled, with_some_rate
from dpo_bench.launcher import launched_size
from dpo_bench.notes import Note, heard
from dpo_bench.processor import processor
from dpo_bench.search.plan import SearchPlan
from dpo_bench.storage import is_published, published_folder
from dpo_bench.sweep.display import Display
from dpo_bench.sweep.executors import make_executor
from dpo_bench.sweep.executors.base import Executor, ExecutorName, WorkerDiedError
from dpo_bench.sweep.executors.machines import (
    bytes_per_worker,
    choose_threads,
    choose_workers,
    is_small,
)
from dpo_bench.sweep.inputs import prepare_inputs
from dpo_bench.sweep.memory import memory_plan, require_fitting, shared_bytes
from dpo_bench.sweep.pool import Pool
from dpo_bench.sweep.results import reported_when_interrupted, write_results
from dpo_bench.sweep.round_robin import write_opponents
from dpo_bench.sweep.schedule import ListSchedule, Schedule
from dpo_bench.sweep.searching import SearchSchedule
from dpo_bench.sweep.silence import Silence, TimeLimits
from dpo_bench.sweep.sources import Sources, find_sources
from dpo_bench.sweep.store import Store, link_files, write_manifest
from dpo_bench.sweep.takeover import Takeover
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.trials import manifest_of
from dpo_bench.sweep.versions import installed_versions
from dpo_bench.sweep.worker import Job, Ready
from dpo_bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What a sweep came to.

    Attributes:
        experiment: as it was run, every ``auto`` settled.
        folder: the sweep's folder.
        report: its page.
        table: the results, a row per trial.
        computed: trials done by this run; the others were there already.
    """

    experiment: Experiment
    folder: Path
    report: Path
    table: pd.DataFrame
    computed: int

    @property
    def results(self) -> SweepResults:
        """All of the folder, as the report reads it."""
        return read_sweep(self.folder)

    @property
    def failed(self) -> int:
        """Number of failed trials."""
        return int((self.table["status"] == "failed").sum())


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """What the command line asks for.

    Attributes:
        experiment: the resolved configuration.
        folder: the sweep's folder.
        command: as typed, for the report.
        workers: number of workers, or None to choose.
        executor: where the workers run.
        plugins: folders of further losses.
        note_level: of `logging`, from which notes are shown and kept.
        limits: after how long a trial is given up.
    """

    experiment: Experiment
    folder: Path
    command: str
    workers: int | None = None
    executor: ExecutorName = "local"
    plugins: tuple[Path, ...] = ()
    note_level: int = logging.INFO
    limits: TimeLimits = field(default_factory=TimeLimits)


def run(
    request: SweepRequest, display: Display, write_report: Callable[[Path], Path]
) -> SweepOutcome:
    """Do what is missing of a sweep, then write its table and report.

    Args:
        request: what to do.
        display: where progress is shown.
        write_report: writes the report of a finished folder.

    Raises:
        LockedError: another process works in the folder.
        DpoBenchError: the experiment, the machine or the data does not allow it.
        KeyboardInterrupt: Ctrl-C; what was running has been saved.
    """
    request = replace(request, experiment=_as_launched(request.experiment, request.executor))
    store = Store(request.folder)
    store.require_own()  # before its path is resolved, which a link to itself does not survive
    processes = (request.workers or 1) * request.experiment.training.gpus_per_trial
    opening = make_executor(request.executor, request.folder.resolve(), processes)
    planned = _planned(request.experiment)
    notes: list[Note] = []

    def on_note(note: Note) -> None:
        if note not in notes:
            notes.append(note)
            display.note(note.text, warning=note.is_warning)

    with store.locked(), display, heard(on_note, request.note_level):
        remove_old_leftovers()
        sources = find_sources(request.experiment, display.phase)
        request = replace(request, experiment=settled(request.experiment, sources.parameters))
        takeover = Takeover(store, request.experiment.training, display)
        takeover.tell_of_own_files()
        shared = conditions(request.experiment, sources.content)
        tasks = [Task(trial, trial_id(trial, shared)) for trial in planned]
        store.open(_record(request, sources, shared, tasks))
        schedule = _schedule(request.experiment, takeover, shared, tasks)
        has_reference = takeover.has_reference()
        if not (schedule.is_over and has_reference):
            done_so_far = reported_when_interrupted(
                store, lambda: schedule.identities, display, write_report
            )
            with done_so_far, opening as executor:
                _run_missing(
                    request,
                    executor,
                    store,
                    sources,
                    schedule=schedule,
                    display=display,
                    on_note=on_note,
                )
            lasting = [note.record() for note in notes if not note.is_passing]
            store.add_to_record({"notes": lasting})
        identities = schedule.identities
        table = write_results(store, identities)
        _require_all(store, identities, table)
        _write_opponents(request.experiment, store, identities, display)
        display.phase("writing the report", 0, 1)
        report = write_report(request.folder)
    return SweepOutcome(request.experiment, request.folder, report, table, schedule.computed)


def _require_all(store: Store, identities: Sequence[str], table: pd.DataFrame) -> None:
    """Whatever was done can be read again.

    Raises:
        EnvironmentProblem: it cannot: the disk has lost it meanwhile.
    """
    if lost := sorted(set(identities) - set(table["trial"])):
        raise EnvironmentProblem(
            f"{store.folder}: {counted(len(lost), 'trial')} cannot be read that this run has done "
            f"or found, such as {lost[0]}: run the same command again, it does them again."
        )


def _as_launched(experiment: Experiment, executor: ExecutorName) -> Experiment:
    """The experiment with as many processes to a trial as a launcher has started, if one has.

    Raises:
        ConfigurationError: another number is asked for, or the executor starts its own.
    """
    size, asked = launched_size(), experiment.training.gpus_per_trial
    if executor == "ray" and size > 1:
        raise ConfigurationError(
            f"a launcher has started {size} processes, and --executor ray starts its own: run the "
            "command once, without the launcher, or leave --executor out."
        )
    if size in (1, asked):
        return experiment
    if asked != 1:
        raise ConfigurationError(
            f"training.gpus_per_trial = {asked}, and the launcher has started {size} processes: "
            "leave the key out."
        )
    training = experiment.training.model_copy(update={"gpus_per_trial": size})
    return experiment.model_copy(update={"training": training})


def _write_opponents(
    experiment: Experiment, store: Store, identities: Sequence[str], display: Display
) -> None:
    """Everyone against everyone: by stored rewards; by a judge, which costs, only on request."""
    from dpo_bench.rewards.find import find_reward
    from dpo_bench.rewards.judge import Judge

    options = experiment.evaluation
    judge = find_reward(options) if options.judge_round_robin else None
    write_opponents(store, identities, judge if isinstance(judge, Judge) else None, display.phase)


def _planned(experiment: Experiment) -> list[PlannedTrial]:
    """The trials that are known beforehand: none of a search, which is checked instead."""
    if experiment.search is None:
        return plan_trials(experiment)
    SearchPlan(with_some_rate(experiment))
    return []


def _schedule(
    experiment: Experiment, takeover: Takeover, shared: dict[str, Any], tasks: Sequence[Task]
) -> Schedule:
    if experiment.search is not None:
        return SearchSchedule(experiment, takeover, lambda trial: trial_id(trial, shared))
    takeover.look(tasks)

    def is_there(task: Task) -> bool:
        manifest = takeover.manifest(*task[:2])
        return (manifest is not None and manifest.is_final) or takeover.reuse(*task[:2])

    return ListSchedule(tasks, is_there)


def _run_missing(
    request: SweepRequest,
    executor: Executor,
    store: Store,
    sources: Sources,
    *,
    schedule: Schedule,
    display: Display,
    on_note: Callable[[Note], None],
) -> None:
    def keep_shared(ready: Ready) -> None:
        store.add_to_record({"data": ready.counts, "computing": ready.computing})
        if not is_published(store.reference_folder):
            with published_folder(store.reference_folder) as folder:
                link_files(ready.reference, folder)

    def record_death(task: Task, reason: WorkerDiedError) -> None:
        manifest = manifest_of(
            task.trial,
            task.identity,
            "failed",
            request.experiment.training,
            error=str(reason),
            cause=type(reason).__name__,
        )
        with store.new_trial(task.identity) as folder:
            write_manifest(folder, manifest)

    machines = executor.machines()
    need, common = _bytes_of_worker(request.experiment, sources, display)
    each = request.experiment.training.gpus_per_trial
    workers = request.workers or choose_workers(
        machines, sources, schedule.expected, need, each, shared=common
    )
    threads = choose_threads(machines, sources, workers * each)
    job = Job(
        request.experiment,
        sources,
        request.folder.resolve(),
        request.plugins,
        losses_of_script(get_loss(grid.name).name for grid in request.experiment.losses),
        threads,
        request.note_level,
    )
    pool = Pool(
        executor,
        job,
        workers,
        schedule,
        display,
        on_ready=keep_shared,
        on_note=on_note,
        on_death=record_death,
        silence=Silence(request.limits),
    )
    pool.run()


def _bytes_of_worker(experiment: Experiment, sources: Sources, display: Display) -> tuple[int, int]:
    """Memory of a worker, and what of it all workers share; on a GPU each plans for its own.

    Raises:
        EnvironmentProblem: this machine has not so much.
    """
    training = experiment.training
    if sources.device != "cpu" or is_small(sources):
        return bytes_per_worker(sources, lora=training.lora is not None), 0
    inputs = prepare_inputs(experiment, sources, display.phase)
    plan = memory_plan(experiment, sources, inputs)
    require_fitting(plan, training)
    return plan.total + training.lower_layers_bytes, shared_bytes(plan, training)


def _record(
    request: SweepRequest,
    sources: Sources,
    shared: dict[str, Any],
    tasks: Sequence[Task],
) -> dict[str, Any]:
    return {
        "experiment": request.experiment.settings(),
        "conditions": shared,
        "command": request.command,
        "versions": installed_versions(*(["peft"] if request.experiment.training.lora else [])),
        "platform": f"{platform.system()} {processor()}, {sources.content.device}",
        "hashes": {
            name: getattr(sources.content, name) for name in ("policy", "reference", "data")
        },
        "trials": [task.identity for task in tasks],
    }
