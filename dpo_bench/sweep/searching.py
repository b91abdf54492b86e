"""A search as a schedule: the state machine of `dpo_bench.search` fed from a sweep's folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dpo_bench.errors import DamagedError
from dpo_bench.experiment import PlannedTrial
from dpo_bench.search.exploration import Outcome, Stage
from dpo_bench.search.plan import Look, SearchPlan, Series, Step
from dpo_bench.search.record import record_of
from dpo_bench.storage import write_record
from dpo_bench.sweep.results import write_results
from dpo_bench.sweep.store import SOUGHT, Manifest, Store
from dpo_bench.sweep.takeover import Takeover
from dpo_bench.sweep.task import Task

if TYPE_CHECKING:
    from dpo_bench.experiment import Experiment


class SearchSchedule:
    """Gives the trials that the results so far ask for, and keeps ``search.json`` up to date.

    Args:
        experiment: with a ``[search]``.
        takeover: looks at what is in the sweep's folder; its display is told of KLs that are met
            and of verdicts.
        identify: gives a trial's identity.
    """

    def __init__(
        self,
        experiment: Experiment,
        takeover: Takeover,
        identify: Callable[[PlannedTrial], str],
    ) -> None:
        self.experiment = experiment
        self.takeover = takeover
        self.store = store = takeover.store
        self.display = display = takeover.display
        self._identify = identify
        self._identities: dict[PlannedTrial, str] = {}
        self.plan = SearchPlan(experiment, _sought_before(experiment, store), self.identify)
        self._begun = time.monotonic()
        self.computed = 0
        self._outcomes: dict[str, Outcome] = {}
        self._looked_for: set[str] = set()
        self._running: dict[str, Task] = {}
        self._judge = _FolderJudge(self)
        self._told: set[tuple[str, float]] = set()
        display.seek([entry.key for entry in self.plan.entries], self.plan.search.kl)
        self.step = self._next()

    @property
    def identities(self) -> list[str]:
        """Of all trials that were asked for, in order."""
        return [self.identify(trial) for trial in self.step.asked]

    @property
    def expected(self) -> int:
        """Trials that this run will do, as far as can be foreseen, up to the next look."""
        known = sum(self.identify(trial) in self._outcomes for trial in self.step.asked)
        foreseen = 0 if self.step.end else self.plan.foreseen(self.step)
        return self.computed + max(foreseen - known, len(self.step.wanted))

    @property
    def is_over(self) -> bool:
        """Whether nothing is wanted any more, or the time is up."""
        return (not self.step.wanted and not self._running) or self._is_late()

    def take(self) -> Task | None:
        """The trial that tells most of what is open, of those that nobody is at."""
        if self._is_late():
            return None
        for one in self.step.wanted:
            identity = self.identify(one.trial)
            if identity not in self._running:
                task = self._running[identity] = Task(one.trial, identity, one.kl_limit)
                return task
        return None

    def finished(self, task: Task) -> None:
        """Take in what a trial came to, and see what follows from it."""
        del self._running[task.identity]
        self.computed += 1
        manifest = self.store.manifest(task.identity)
        if manifest is not None:
            self._outcomes[task.identity] = self._outcome(task.identity, manifest)
        self.step = self._next()
        self.display.total(self.expected)

    def identify(self, trial: PlannedTrial) -> str:
        """A trial's identity, worked out once."""
        if trial not in self._identities:
            self._identities[trial] = self._identify(trial)
        return self._identities[trial]

    def save(self, step: Step | None = None) -> None:
        """Write ``search.json``."""
        record = record_of(self.plan, step or self.step, self.identify)
        if self._is_late() and not record["end"]:
            record["end"] = "hours"
        write_record(self.store.search_file, record)

    def _is_late(self) -> bool:
        hours = self.plan.search.hours
        return bool(hours) and time.monotonic() - self._begun > 3600 * hours

    def _next(self) -> Step:
        step = self.plan.next_step(self._look_up, self._judge)
        self.save(step)
        for series in step.series:
            self._tell(series)
        return step

    def _tell(self, series: Series) -> None:
        """Say once of each KL how it is met, or that it is out of reach."""
        entry, exploration = series.entry, series.exploration
        if exploration.wanted and not exploration.met:
            return
        for kl in entry.sought.kls:
            met, reason = exploration.met.get(kl), exploration.reasons.get(kl)
            if (entry.key, kl) in self._told or (met is None and not reason):
                continue
            self._told.add((entry.key, kl))
            if met is not None and met.outcome is not None:
                values = ", ".join(f"{name} {value:g}" for name, value in met.setting)
                self.display.target(entry.key, kl, f"{values}, KL {met.outcome.kl:.3g}", met=True)
            else:
                self.display.target(entry.key, kl, reason or "", met=False)

    def _look_up(self, trial: PlannedTrial) -> Outcome | None:
        identity = self.identify(trial)
        if identity in self._outcomes or identity in self._running:
            return self._outcomes.get(identity)
        if identity not in self._looked_for:
            # Looked for once: what is not there now, a trial of this run will tell of.
            self._looked_for.add(identity)
            manifest = self.takeover.manifest(trial, identity)
            limit = self.plan.kl_limit
            is_final = manifest is not None and manifest.is_final_for(limit)
            if not is_final and self.takeover.reuse(trial, identity):
                manifest = self.store.manifest(identity)
            if manifest is not None and manifest.is_final_for(limit):
                self._outcomes[identity] = self._outcome(identity, manifest)
        return self._outcomes.get(identity)

    def _outcome(self, identity: str, manifest: Manifest) -> Outcome:
        if manifest.status == "done":
            metrics = self.store.sealed_trial(identity).read_json("evaluation.json")["metrics"]
            return Outcome("done", float(metrics["kl"]["value"]))
        if manifest.status == "stopped":
            return Outcome("stopped", float((manifest.stopped or {}).get("kl", math.nan)))
        return Outcome("diverged" if manifest.cause == "DivergedError" else "failed")


def _sought_before(experiment: Experiment, store: Store) -> list[Stage]:
    """What was sought in this folder before, and from now on also what is sought now.

    When something else is sought, it is kept which results there were until then.
    """
    record = store.read_experiment() or {}
    stages = [_stage(*one) for one in record.get(SOUGHT, ())]
    search = experiment.search
    now = Stage(search.kl, search.within) if search else Stage((), 0.0)
    if stages and stages[-1][:2] == now[:2]:
        return stages[:-1]
    if stages:
        stages[-1] = stages[-1]._replace(known=_known_so_far(store))
    store.add_to_record({SOUGHT: [_plain(one) for one in [*stages, now]]})
    return stages


def _stage(kls: Sequence[float], within: float, known: Sequence[str] | None = None) -> Stage:
    return Stage(tuple(map(float, kls)), float(within), None if known is None else frozenset(known))


def _plain(stage: Stage) -> list[Any]:
    known = None if stage.known is None else sorted(stage.known)
    return [list(stage.kls), stage.within, known]


def _known_so_far(store: Store) -> frozenset[str] | None:
    """The trials of the folder's search that have a result; None where it has no record."""
    try:
        trials = store.read_search()["trials"]
    except FileNotFoundError:
        return None
    except DamagedError:  # all that there are: the search has asked for them
        trials = [path.name for path in store.folder.glob("trials/[!.]*")]
    return frozenset(one for one in trials if store.manifest(one) is not None)


class _FolderJudge:
    """Asks the analysis, as the report does, of what the sweep's folder holds.

    An answer depends on the results of the trials that it is asked of, and is kept.
    """

    def __init__(self, schedule: SearchSchedule) -> None:
        self.schedule = schedule
        self._choices: dict[tuple[str, ...], int] = {}
        self._open: dict[tuple[str, ...], Mapping[str, float]] = {}

    def choose(self, rates: Sequence[Series]) -> int:
        """The learning rate with the best figures on one half of the prompts."""
        from dpo_bench.analysis.tuning import choose_of_folder

        schedule = self.schedule
        paths = [[schedule.identify(trial) for trial in one.path] for one in rates]
        key = tuple(one for path in paths for one in (*path, ""))
        if key not in self._choices:
            kls = schedule.plan.search.kl
            self._choices[key] = choose_of_folder(schedule.store.folder, paths, kls)
        return self._choices[key]

    def open_losses(self, step: Step, look: Look) -> Mapping[str, float]:
        """Of which losses a comparison with the baseline is open at a look."""
        from dpo_bench.analysis.results import read_sweep
        from dpo_bench.analysis.sequential import open_at_last_look

        schedule = self.schedule
        path = tuple(schedule.identify(trial) for one in step.series for trial in one.path)
        if path not in self._open:
            seen = Step(step.series, step.asked, [], [*step.looks, look], step.seeds)
            schedule.save(seen)
            write_results(schedule.store, [schedule.identify(trial) for trial in seen.asked])
            self._open[path], text = open_at_last_look(read_sweep(schedule.store.folder))
            schedule.display.verdicts(f"{len(look.seeds)} seeds: {text}")
        return self._open[path]
