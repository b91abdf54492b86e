"""A sweep's folder as frozen values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dpo_bench.analysis.bootstrap import resample_weights
from dpo_bench.analysis.estimate import Estimate, finite
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.analysis.frontier_samples import pooled_frontier
from dpo_bench.errors import ConfigurationError, EnvironmentProblem
from dpo_bench.ledger import Ledger, read_twice
from dpo_bench.notes import Note
from dpo_bench.storage import MANIFEST, Sealed, damaged, open_folder, open_sealed, read_record

RESULTS = "results.parquet"
EXPERIMENT = "experiment.json"
SEARCH = "search.json"
"""What a searched sweep has asked for and found so far; absent where strengths were given."""
SUMMARY = "summary.txt"
"""The sentences that a report begins with, a line each."""
DEFAULT_RESAMPLES = 2000
WINS = "wins"
"""Scored by" where shares of beaten opponents are known and no rewards."""
ReadTable = Callable[[str], "pd.DataFrame | None"]
"""Gives a table by its name, without ending; None where there is none."""
REQUIRED = ("trial", "loss", "beta", "seed", "status", "kl")
"""Columns without which a table is none of a sweep's."""
OWN_KEYS = (
    "optimizer", "learning_rate", "schedule", "warmup_fraction", "weight_decay",
    "max_gradient_norm", "pairs_per_step", "reference_sync_steps", "reference_sync_rate", "steps",
    "epochs",
)  # fmt: skip
"""Keys of ``[training]`` that a trial may have a value of its own of."""
DONE, STOPPED, FAILED = "done", "stopped", "failed"
"""What may have become of a trial."""


@dataclass(frozen=True)
class Trial:
    """One row of the results with the tables behind it.

    Attributes:
        id: SHA-256 of its configuration.
        loss: the loss's name.
        strength_name: which hyperparameter is the strength, usually beta.
        strength: its value; None for a loss that has none.
        hyperparameters: all of the loss's hyperparameters.
        seed: training seed.
        status: done; stopped, where the search ended it early; or failed.
        error: the cause in a line, when it is not done.
        traceback: the whole cause.
        row: its row of the results table.
        metrics: its ``evaluation.json``'s metrics.
        read: gives one of its tables by name, None where there is none.
        sources: names of the sweeps that it comes from; empty in the report of one sweep.
        cut: share of its responses that reached the token limit; None where that is not known.
        training: the keys of ``[training]`` that trials may differ in, with its own values.
        stopped: where it was stopped early: step, kl, limit (nats), steps and seconds.
    """

    id: str
    loss: str
    strength_name: str
    strength: float | None
    hyperparameters: Mapping[str, Any]
    seed: int
    status: str
    error: str
    traceback: str
    row: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]
    read: ReadTable
    sources: tuple[str, ...] = ()
    cut: float | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    stopped: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether it was trained to the end and evaluated."""
        return self.status == DONE

    @property
    def failed(self) -> bool:
        """Whether it broke off by itself; one that was stopped early did not."""
        return self.status not in (DONE, STOPPED)

    @property
    def state(self) -> str:
        """Its status in a word or, where it was stopped, with the reason."""
        return f"stopped: {self.error}" if self.status == STOPPED else self.status

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its hyperparameters and its own values of training, in one."""
        return {**self.training, **self.hyperparameters}

    def value(self, name: str) -> float | None:
        """A figure without its interval; None when it was not measured."""
        return finite(self.estimate(name).value)

    def estimate(self, name: str) -> Estimate:
        """A figure of the results table, or else of the evaluation, with its interval and n."""
        value = finite(self.row.get(name))
        if value is None:
            found = self.metrics.get(name)
            return Estimate.read(found) if isinstance(found, Mapping) else Estimate.missing()
        n = self.metrics.get(name, {}).get("n", self.row.get("prompts"))
        ends = {end: self.row.get(f"{name}_{end}") for end in ("low", "high")}
        return Estimate.read({"value": value, "n": n, **ends})

    @cached_property
    def training_log(self) -> pd.DataFrame:
        """A row per logged step; empty when nothing was logged (also for some failed trials)."""
        return self._table("training")

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row per response on a held-out prompt; empty for a trial that is not done."""
        return self._table("samples") if self.done else pd.DataFrame()

    @cached_property
    def cut_share(self) -> float | None:
        """The share of its responses that were cut at the token limit; None where not known."""
        if "finished" not in self.samples or self.samples.empty:
            return None
        return 1.0 - float(self.samples["finished"].mean())

    @cached_property
    def checkpoints(self) -> pd.DataFrame:
        """A row per evaluation along training, by step; empty where there was none."""
        return self._along("checkpoints")

    @cached_property
    def checkpoint_prompts(self) -> pd.DataFrame:
        """A row per evaluation along training and prompt: means over the prompt's responses."""
        return self._along("checkpoint_prompts")

    def _table(self, name: str) -> pd.DataFrame:
        found = self.read(name)
        return pd.DataFrame() if found is None else found

    def _along(self, name: str) -> pd.DataFrame:
        """A table by step, without the last one: that is the trial's own evaluation."""
        table, last = self._table(name), finite(self.row.get("steps"))
        if not self.done or table.empty:
            return pd.DataFrame()
        table = table if last is None else table[table["step"] < last]
        return table.sort_values("step", kind="stable")


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One point of the optimal frontier or of best-of-n.

    Attributes:
        kl: nats.
        reward: mean reward with its 95% interval; the ends are the reward where there is none.
        n: of best-of-n; 0 for the frontier.
    """

    kl: float
    reward: Estimate
    n: int = 0


@dataclass(frozen=True)
class Reference:
    """The reference policy's own responses and what follows from them.

    Attributes:
        read: gives one of its tables by name, None where there is none.
        reward: its mean reward.
        response_tokens: its mean response length, tokens.
        controls: of the reward or judge, by name: value, low, high, n, expected, passed.
        controls_cost: what a judge's controls took; empty for a reward.
        text_read_by_the_reward: of the first prompt and its chosen response; empty where the reward
            makes no text of them.
    """

    read: ReadTable
    reward: Estimate
    response_tokens: Estimate
    controls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    controls_cost: Mapping[str, Any] = field(default_factory=dict)
    text_read_by_the_reward: str = ""

    @cached_property
    def samples(self) -> pd.DataFrame:
        """``reference_samples`` rows per prompt; empty where its responses are not known."""
        return _known(self.read("samples"))

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """A row per held-out prompt, with the dataset's chosen response; empty likewise."""
        return _known(self.read("prompts"))

    @cached_property
    def frontier(self) -> tuple[CurvePoint, ...]:
        """What its own samples show of the optimal reward at each KL, ordered.

        Empty without a reward. `SweepResults.frontier` is what the policies' samples show as well.
        """
        return self._curve("frontier")

    @cached_property
    def best_of_n(self) -> tuple[CurvePoint, ...]:
        """Reward and KL of the best of n reference samples, ordered; empty without a reward."""
        return self._curve("best_of_n")

    def _curve(self, name: str) -> tuple[CurvePoint, ...]:
        table = self.read(name)
        if table is None:
            return ()
        rows = table.dropna(subset=["kl", "reward"]).sort_values("kl")
        return _curve_points(rows)


def _prompts(samples: pd.DataFrame) -> pd.Index:
    ids: pd.Index = pd.Index(sorted(set(samples["prompt_id"])))
    return ids


def _known(table: pd.DataFrame | None) -> pd.DataFrame:
    return pd.DataFrame() if table is None else table


NO_REFERENCE = Reference(lambda _name: None, Estimate.missing(), Estimate.missing())
"""Of results that come without a reference's responses."""


@dataclass(frozen=True)
class SweepResults:
    """Everything that a report is made from.

    Attributes:
        folder: the sweep's folder.
        table: the results, a row per trial.
        experiment: every key of the resolved experiment, as recorded; empty for results that come
            from elsewhere.
        command: what was typed.
        versions: of the program and its libraries.
        platform: the machine in words.
        hashes: of policy, reference and data.
        counts: of pairs, truncations and dropped rows.
        planned: ids of all planned trials; of a search, of those that it has asked for.
        trials: in the order of the results table.
        reference: the reference policy.
        conditions: what all its trials share.
        plan: the ``[comparison]`` that stood in the experiment before the first trial.
        search: what a searched sweep has found, as its ``search.json`` has it; empty without.
        sources: names of the sweeps that were merged; empty for a single one.
        notes: what the program had to say while the sweep ran.
        computing: how log-probs were computed and responses sampled.
        remarks: what merging them means for the conclusions, in sentences.
        scored_by: what scored responses, as the experiment names it: a reward, ``judge:MODEL``,
            ``none``; ``wins`` where only shares of beaten opponents are known.
        prompts_known: whether figures are known prompt by prompt, not only run by run.
        resamples: bootstrap resamples over prompts.
        bootstrap_seed: seed of the bootstrap.
    """

    folder: Path
    table: pd.DataFrame
    experiment: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    platform: str
    hashes: Mapping[str, str]
    counts: Mapping[str, Any]
    planned: tuple[str, ...]
    trials: tuple[Trial, ...]
    reference: Reference
    conditions: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    computing: Mapping[str, str] = field(default_factory=dict)
    scored_by: str = "none"
    prompts_known: bool = True
    resamples: int = DEFAULT_RESAMPLES
    bootstrap_seed: int = 0

    @property
    def prompts(self) -> int | None:
        """How many held-out prompts every policy answered; None before one has."""
        known = self.table["prompts"].dropna() if "prompts" in self.table else ()
        return int(max(known)) if len(known) else None

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.experiment.get("name", self.folder.name))

    @property
    def training(self) -> Mapping[str, Any]:
        """The experiment's ``[training]``."""
        return dict(self.experiment.get("training", {}))

    @property
    def judge(self) -> str:
        """The judge that compared responses in pairs; empty where none did."""
        kind, _, name = self.scored_by.partition(":")
        return name if kind == "judge" else ""

    @property
    def has_wins(self) -> bool:
        """Whether responses were held against each other, by a reward or by a judge."""
        return self.scored_by != "none"

    @property
    def has_reward(self) -> bool:
        """Whether responses have rewards of their own; under a judge they have not."""
        return self.has_wins and not self.judge and self.scored_by != WINS

    @property
    def has_kl(self) -> bool:
        """Whether some trial's KL to the reference was measured."""
        return self.has("kl")

    def has(self, metric: str) -> bool:
        """Whether some trial has this metric."""
        return any(trial.value(metric) is not None for trial in self.done)

    @property
    def has_responses(self) -> bool:
        """Whether responses stand beside the reference's to the same prompts."""
        return bool(self.done) and len(self.reference.prompts) > 0

    @property
    def done(self) -> tuple[Trial, ...]:
        """The trials that finished."""
        return tuple(trial for trial in self.trials if trial.done)

    def frontier_on(self, prompts: pd.Index) -> Frontier | None:
        """The optimal frontier over these prompts, from the reference's and all trials' responses.

        None where the sweep gives none: without a reward, or at another temperature than 1.
        """
        if self.optimum is None:
            return None
        if prompts.equals(_prompts(self.reference.samples)):
            return self.optimum
        return self._pooled(prompts)

    @cached_property
    def optimum(self) -> Frontier | None:
        """`frontier_on` all prompts that the reference answered."""
        if not self.reference.frontier or self.reference.samples.empty:
            return None
        return self._pooled(_prompts(self.reference.samples))

    def _pooled(self, prompts: pd.Index) -> Frontier | None:
        samples = (trial.samples for trial in self.done)
        return pooled_frontier(self.reference.samples, samples, prompts)

    @cached_property
    def frontier(self) -> tuple[CurvePoint, ...]:
        """The optimal reward at each KL in its valid range, ordered; empty where it is not known.

        Where policies carry it on it is estimated anew; else it is the reference's own curve.
        """
        if self.optimum is None or not self.optimum.policies:
            return self.reference.frontier
        count = len(self.optimum.kl)
        weights = resample_weights(count, self.resamples, self.bootstrap_seed)
        return _curve_points(self.optimum.table(weights))

    @property
    def failed(self) -> tuple[Trial, ...]:
        """The trials that failed; one that was stopped early is none of them."""
        return tuple(trial for trial in self.trials if trial.failed)

    @property
    def stopped(self) -> tuple[Trial, ...]:
        """The trials that the search ended early."""
        return tuple(trial for trial in self.trials if trial.status == STOPPED)

    @property
    def pending(self) -> int:
        """How many planned trials have no row yet."""
        return len(set(self.planned) - {trial.id for trial in self.trials})

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds that occur, ascending."""
        return tuple(sorted({trial.seed for trial in self.trials}))


def read_sweep(folder: Path) -> SweepResults:
    """Read a sweep's folder; tables of responses are read when first asked for.

    Raises:
        ConfigurationError: the folder holds no sweep.
        EnvironmentProblem: a file is missing or damaged.
    """
    for name in (EXPERIMENT, RESULTS):
        if not (folder / name).is_file():
            raise ConfigurationError(
                f"{folder} holds no {name}: give the folder of a sweep that has finished."
            )
    table = Ledger(folder).read_parquet(RESULTS)
    if missing := [name for name in REQUIRED if name not in table]:
        raise EnvironmentProblem(
            f"{folder / RESULTS} lacks the columns {', '.join(missing)}: run the sweep again."
        )
    return _sweep(folder, table)


def read_trials(folder: Path, identities: Collection[str]) -> SweepResults:
    """Some trials of a sweep's folder by their ids, without its table of results.

    Trials that have no manifest yet are left out.

    Raises:
        EnvironmentProblem: a file is damaged.
    """
    rows = []
    for identity in dict.fromkeys(identities):
        if (folder / "trials" / identity / MANIFEST).is_file():
            manifest = open_sealed(folder / "trials" / identity).fields
            known = {name: manifest.get(name) for name in REQUIRED if name != "kl"}
            rows.append({**known, "kl": None})
    return _sweep(folder, pd.DataFrame(rows, columns=list(REQUIRED)))


def _sweep(folder: Path, table: pd.DataFrame) -> SweepResults:
    record = read_twice(folder / EXPERIMENT)
    experiment = dict(record.get("experiment") or {})
    evaluation = dict(experiment.get("evaluation") or {})
    search = read_record(folder / SEARCH) if (folder / SEARCH).is_file() else {}
    training = own_values(experiment.get("training") or {})
    return SweepResults(
        folder=folder,
        table=table,
        experiment=experiment,
        command=str(record.get("command") or ""),
        versions=dict(record.get("versions") or {}),
        platform=str(record.get("platform") or ""),
        hashes=dict(record.get("hashes") or {}),
        counts=dict(record.get("data") or {}),
        planned=tuple(map(str, search.get("trials") or record.get("trials") or ())),
        trials=tuple(_trial(folder, row, training) for row in table.to_dict("records")),
        reference=read_reference(folder / "reference"),
        conditions=dict(record.get("conditions") or {}),
        plan=dict(record.get("plan") or {}),
        search=search,
        notes=tuple(Note(**note) for note in record.get("notes") or ()),
        computing=dict(record.get("computing") or {}),
        scored_by=str(evaluation.get("reward") or "none"),
        resamples=int(evaluation.get("resamples") or DEFAULT_RESAMPLES),
        bootstrap_seed=int(evaluation.get("seed") or 0),
    )


def own_values(training: Mapping[str, Any]) -> dict[str, Any]:
    """Of a ``[training]`` the keys that a trial may have a value of its own of."""
    return {key: training[key] for key in OWN_KEYS if key in training}


def read_reference(folder: Path) -> Reference:
    """Read ``reference/``; its tables are read when first asked for.

    Raises:
        DamagedError: its ``evaluation.json`` or its manifest is damaged.
    """
    files = open_folder(folder)
    record = files.read_json("evaluation.json") if files.has("evaluation.json") else {}
    metrics, controls, cost = (
        dict(record.get(name) or {}) for name in ("metrics", "controls", "controls_cost")
    )
    reward, tokens = (metrics.get(name) or {} for name in ("reward", "response_tokens"))
    text = record.get("text_read_by_the_reward")
    required = ("samples", "prompts") if folder.is_dir() else ()
    return Reference(
        functools.partial(read_table, files, required=required),
        Estimate.read(reward),
        Estimate.read(tokens),
        controls,
        cost,
        str(text or ""),
    )


def _curve_points(rows: pd.DataFrame) -> tuple[CurvePoint, ...]:
    return tuple(_curve_point(row) for row in rows.to_dict("records"))


def _curve_point(row: Mapping[Any, Any]) -> CurvePoint:
    reward = float(row["reward"])
    low, high = (finite(row.get(key)) for key in ("reward_low", "reward_high"))
    ends = (reward if low is None else low, reward if high is None else high)
    return CurvePoint(float(row["kl"]), Estimate(reward, *ends), int(row.get("n") or 0))


def _trial(folder: Path, row: Mapping[Any, Any], training: Mapping[str, Any]) -> Trial:
    place = folder / "trials" / str(row["trial"])
    try:
        return _read_trial(place, row, training)
    except (AttributeError, TypeError, ValueError) as error:  # of an older version, and changed
        raise damaged(place / MANIFEST, f" ({error})") from error


def _read_trial(place: Path, row: Mapping[Any, Any], training: Mapping[str, Any]) -> Trial:
    files = _opened(place)
    manifest = files.fields
    status = str(row["status"])
    done = status == DONE
    evaluation = files.read_json("evaluation.json") if done else {}
    decay = (evaluation.get("notes") or {}).get("decay") or {}
    return Trial(
        id=str(row["trial"]),
        loss=str(row["loss"]),
        strength_name=str(manifest.get("strength") or "strength"),
        strength=finite(row["beta"]),
        hyperparameters=dict(manifest.get("hyperparameters") or {}),
        seed=int(row["seed"]),
        status=status,
        error="" if done else str(manifest.get("error") or "no cause was recorded"),
        traceback="" if done else str(manifest.get("traceback") or ""),
        row={str(key): value for key, value in row.items()},
        metrics=dict(evaluation.get("metrics") or {}),
        read=functools.partial(read_table, files, required=("training", "samples") if done else ()),
        cut=finite(decay.get("unfinished")),
        training=dict(manifest.get("training") or training),
        stopped=dict(manifest.get("stopped") or {}),
    )


def _opened(trial: Path) -> Sealed:
    try:
        return open_sealed(trial)
    except FileNotFoundError as error:
        raise damaged(trial / MANIFEST) from error


def read_table(files: Sealed, name: str, *, required: Collection[str] = ()) -> pd.DataFrame | None:
    """A table of a published folder; None where there is none, unless it is required.

    Raises:
        DamagedError: it is damaged, or required and missing.
    """
    file = f"{name}.parquet"
    return files.read_parquet(file) if name in required or files.has(file) else None
