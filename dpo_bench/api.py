"""What the package offers to Python: the same functions that the command line calls.

>>> import dpo_bench as db
>>> sweep = db.run_sweep("quickstart", losses=["dpo", "ipo"], seeds=[0, 1])  # doctest: +SKIP
>>> sweep.compare(baseline="dpo", kl=[1.0, 4.0])  # doctest: +SKIP

Importing this module loads pandas; torch and transformers are loaded when something is trained or
measured.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.overrides import Overrides, folder_of, resolve, resolve_evaluation
from dpo_bench.progress import Loudness

if TYPE_CHECKING:
    import pandas as pd

    from dpo_bench.analysis.results import SweepResults
    from dpo_bench.evaluation.policy import PolicyEvaluation
    from dpo_bench.experiment import Experiment
    from dpo_bench.report.plots import Plots
    from dpo_bench.report.view import ReportView
    from dpo_bench.sweep.display import Display
    from dpo_bench.sweep.executors import ExecutorName
    from dpo_bench.sweep.run import SweepOutcome

Section = Mapping[str, Any]
"""Keys of a section of an experiment file, such as ``{"steps": 120}``."""
PathLike = str | Path


class Sweep:
    """A sweep's results: tables, comparisons, pictures and the report.

    Made by `run_sweep`, `load_sweep`, `load_sweeps` and `load_results`. What is asked for is read
    or computed then, and kept. In a notebook it shows what was found.

    Attributes:
        outcome: what running it came to; None for one that was loaded.
    """

    def __init__(
        self, results: SweepResults | None = None, outcome: SweepOutcome | None = None
    ) -> None:
        self.outcome = outcome
        if results is not None:
            self.results = results

    def __repr__(self) -> str:
        done, total = len(self.results.done), len(self.results.trials)
        return f"<Sweep {self.results.name}: {done} of {total} trials done>"

    def _repr_html_(self) -> str:
        from dpo_bench.report.notebook import show

        return show(self._view)

    @cached_property
    def results(self) -> SweepResults:
        """Everything that was read, as the report reads it."""
        if self.outcome is None:
            raise ValueError("a Sweep is made from results or from the outcome of a run")
        return self.outcome.results

    @property
    def folder(self) -> Path:
        """Where the sweep lies; of several or of a table, what they are called."""
        return self.results.folder

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial; see `analysis.frames.trials`."""
        from dpo_bench.analysis import frames

        return frames.trials(self.results)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row per trial and metric; see `analysis.frames.metrics`."""
        from dpo_bench.analysis import frames

        return frames.metrics(self.results)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row per response; see `analysis.frames.samples`."""
        from dpo_bench.analysis import frames

        return frames.samples(self.results)

    @cached_property
    def training_log(self) -> pd.DataFrame:
        """A row per trial and logged step; see `analysis.frames.training_log`."""
        from dpo_bench.analysis import frames

        return frames.training_log(self.results)

    @cached_property
    def checkpoints(self) -> pd.DataFrame:
        """A row per trial and evaluation along training; see `analysis.frames.checkpoints`."""
        from dpo_bench.analysis import frames

        return frames.checkpoints(self.results)

    def compare(
        self,
        metric: str | None = None,
        *,
        baseline: str | None = None,
        kl: Sequence[float] | Literal["band"] | None = None,
        same_within: float | None = None,
        details: bool = False,
    ) -> pd.DataFrame:
        """Losses at matched KL; see `analysis.compare.comparison_frame`.

        Args:
            metric: ``reward`` or ``win_rate``; None: reward, or win rate where there is none.
            baseline: a loss that every other one is compared with; None: every pair.
            kl: nats; None: those of .25, .5, 1, 2, 4, 8 and 16 that most losses cover; ``band``:
                all along the range that they cover together.
            same_within: differences up to this size are no difference that matters.
            details: with further columns: at_least, at_most, policies, bias_bound, standard errors
                by source, reason.

        Returns:
            loss, against, kl, difference, low, high, p, verdict.

        Raises:
            ConfigurationError: there is no such metric or baseline, or nothing to compare.
        """
        from dpo_bench.analysis.compare import comparison_frame, measure_named

        return comparison_frame(
            self.results,
            measure_named(metric, has_reward=self.results.has_reward),
            baseline=baseline,
            kl=kl,
            same_within=same_within,
            details=details,
        )

    def frontier(self) -> pd.DataFrame:
        """The best reward at each KL that the reference's samples show: kl, reward, low, high."""
        from dpo_bench.analysis import frames

        return frames.frontier(self.results)

    def regret(self, kl: Sequence[float] | None = None) -> pd.DataFrame:
        """How much better the best policy of the same KL is: loss, kl, regret, low, high, n.

        Args:
            kl: nats; None: the KLs at which losses are compared.
        """
        from dpo_bench.analysis.regret import regret_frame

        return regret_frame(self.results, kl)

    @property
    def plot(self) -> Plots:
        """Pictures: ``sweep.plot.reward_vs_kl()``, ``sweep.plot.heat_map("kl")``."""
        from dpo_bench.report.plots import Plots

        return Plots(self.results)

    def report(
        self,
        out: PathLike,
        format: Literal["html", "markdown", "latex"] = "html",  # noqa: A002 - as the command line calls it
    ) -> Path:
        """Write the report into a folder; returns the file to open first.

        Raises:
            ConfigurationError: the folder is another sweep's.
        """
        from dpo_bench.report.write import write_results_report

        return write_results_report(self.results, Path(out), format)

    @cached_property
    def _view(self) -> ReportView:
        from dpo_bench.report.view import build_view

        return build_view(self.results)


def run_sweep(
    experiment: PathLike | Experiment | None = None,
    *,
    policy: str | None = None,
    reference: str | None = None,
    preferences: str | None = None,
    reward: str | None = None,
    losses: Sequence[str | Section] | str = (),
    beta: Sequence[float | str] | float | str = (),
    seeds: Sequence[int | str] | int | str = (),
    training: Section | None = None,
    evaluation: Section | None = None,
    data: Section | None = None,
    world: Section | None = None,
    search: Section | Literal[False] | None = None,
    comparison: Section | None = None,
    settings: Sequence[str] = (),
    out: PathLike | None = None,
    workers: int | None = None,
    executor: ExecutorName = "local",
    plugins: Sequence[PathLike] = (),
    stall_timeout: float | None = None,
    trial_timeout: float | None = None,
    loudness: Loudness = "normal",
    command: str | None = None,
    folder_name: str = "{}",
) -> Sweep:
    """Do what is missing of a sweep: train and measure losses x strengths x seeds, and report.

    The same call again resumes: nothing that is finished is computed twice.

    Args:
        experiment: an experiment file, the name of a shipped one, or an `Experiment`. None: the
            quickstart, or with a policy and preferences of your own just these.
        policy: the model that is trained: hub id, folder, .gguf, smollm2 or world:reviews.
        reference: likewise; None: where the policy starts.
        preferences: hub id, folder, .jsonl, .parquet, .csv or world:reviews.
        reward: vader, module:function, model:PATH, sentiment:PATH, judge:MODEL or none.
        losses: names, or tables such as ``{"name": "ipo", "tau": [0.1, 1.0]}``.
        beta: strengths for every loss.
        seeds: training seeds.
        training: keys of ``[training]``; likewise evaluation, data and world.
        evaluation: keys of ``[evaluation]``.
        data: keys of ``[data]``.
        world: keys of ``[world]``.
        search: keys of ``[search]``; False: the experiment's own search is put aside.
        comparison: keys of ``[comparison]``.
        settings: further keys, as ``section.key=value``.
        out: folder of the results; None: ``runs/NAME``.
        workers: worker processes; None: one per GPU, per core, or per two
            cores of a model of 50 MB or more.
        executor: ``local``, or ``ray``.
        plugins: folders with further losses.
        stall_timeout: seconds without progress after which a trial is given up as failed and its
            worker replaced; None: ten minutes, or 20 times the longest silence so far.
        trial_timeout: seconds after which it is in any case; None: never.
        loudness: what is said while it runs: quiet, normal, verbose or json.
        command: what the report says was typed; None: this call.
        folder_name: of the results below ``runs/`` where ``out`` is None; ``{}`` is the
            experiment's name.

    Raises:
        ConfigurationError: the experiment cannot be run as it is.
        LockedError: another process works in the folder.
        DpoBenchError: the machine or the data does not allow it.
        KeyboardInterrupt: what was running has been saved.
    """
    from dpo_bench.contract import load_plugins
    from dpo_bench.sweep.display import make_display
    from dpo_bench.sweep.run import SweepRequest, run
    from dpo_bench.sweep.silence import TimeLimits

    for folder in plugins:
        load_plugins(folder)
    resolved = _resolved(
        experiment,
        Overrides(
            policy=policy,
            reference=reference,
            preferences=preferences,
            reward=reward,
            losses=(losses,) if isinstance(losses, str) else tuple(losses),
            beta=_texts(beta),
            seeds=_texts(seeds),
            settings=tuple(settings),
            sections=_given(
                training=training,
                evaluation=evaluation,
                data=data,
                world=world,
                search=search or None,
                comparison=comparison,
            ),
            no_search=search is False,
        ),
    )
    request = SweepRequest(
        experiment=resolved,
        folder=Path(out or Path("runs") / folder_name.format(folder_of(resolved.name))),
        command=command or f"dpo_bench.run_sweep, {Path(sys.argv[0]).name or 'python'}",
        workers=workers,
        executor=executor,
        plugins=tuple(Path(folder).resolve() for folder in plugins),
        note_level=logging.DEBUG if loudness == "verbose" else logging.INFO,
        limits=TimeLimits(stall_timeout, math.inf if trial_timeout is None else trial_timeout),
    )
    outcome = run(request, make_display(_stderr(), loudness), _write_report)
    return Sweep(outcome=outcome)


def load_sweep(folder: PathLike) -> Sweep:
    """A sweep from its folder.

    Raises:
        ConfigurationError: the folder holds no sweep.
        EnvironmentProblem: a file of it is missing or damaged.
    """
    from dpo_bench.analysis.results import read_sweep

    return Sweep(read_sweep(Path(folder)))


def load_sweeps(folders: Sequence[PathLike]) -> Sweep:
    """Several sweeps as one: their trials, each once.

    Raises:
        ConfigurationError: they were made under different conditions, so that they do not compare.
    """
    from dpo_bench.analysis.merge import read_sweeps

    return Sweep(read_sweeps([Path(folder) for folder in folders]))


def load_results(source: PathLike | pd.DataFrame) -> Sweep:
    """Results of another trainer or benchmark, to be compared and reported like a sweep's.

    Args:
        source: a tidy table with the columns loss, strength, seed, prompt, kl (nats), reward (or
            win, or both), a row per run and prompt; without prompt, a row per run. Or a file of
            such a table (.parquet, .csv, .jsonl), or AlpacaEval's ``annotations.json``.

    Raises:
        ConfigurationError: there is no such file.
        DataError: a column or value is missing or wrong.
    """
    from dpo_bench.analysis.external import from_frame, read_file

    if isinstance(source, str | Path):
        return Sweep(read_file(Path(source)))
    return Sweep(from_frame(source))


def compare(
    frame: pd.DataFrame,
    *,
    baseline: str | None = None,
    kl: Sequence[float] | Literal["band"] | None = None,
    metric: str | None = None,
    same_within: float | None = None,
    details: bool = False,
) -> pd.DataFrame:
    """Losses of another trainer's results at matched KL; see `load_results` and `Sweep.compare`.

    >>> import pandas as pd
    >>> rows = [
    ...     (loss, beta, seed, 0.5 / beta, gain * (0.5 / beta) ** 0.5 + seed / 50)
    ...     for loss, gain in (("dpo", 0.5), ("ipo", 0.4))
    ...     for beta in (0.1, 0.2, 0.4)
    ...     for seed in (0, 1, 2)
    ... ]
    >>> frame = pd.DataFrame(rows, columns=["loss", "strength", "seed", "kl", "reward"])
    >>> compare(frame, baseline="dpo", kl=[2.0])[["loss", "against", "verdict"]].values.tolist()
    [['ipo', 'dpo', 'worse']]
    """
    return load_results(frame).compare(
        metric, baseline=baseline, kl=kl, same_within=same_within, details=details
    )


def compare_across(
    sweeps: Sequence[Sweep | PathLike | pd.DataFrame],
    *,
    baseline: str | None = None,
    kl: Sequence[float] | None = None,
    metric: str | None = None,
) -> pd.DataFrame:
    """The same losses judged over several worlds, data sets or models; see `analysis.across`.

    Args:
        sweeps: two or more: sweeps, their folders, or tables (files of them) as for `load_results`.
        baseline: a loss of all of them, which the others are compared with; None: dpo.
        kl: nats; None: three KLs inside the range that all sweeps cover.
        metric: ``reward`` or ``win_rate``; None: reward, or win rate where a sweep has none.

    Returns:
        a row per loss and KL: loss, against, kl, sweeps, difference (mean over sweeps), low, high
        (95%, these sweeps), low_others, high_others (95%, others like them), better_in (sweeps),
        improvement (probability that a run beats one of the baseline), improvement_low,
        improvement_high, p (Holm), verdict.

    Raises:
        ConfigurationError: the sweeps cannot be judged together, and why.

    >>> import pandas as pd
    >>> def world(shift):
    ...     rows = [
    ...         (loss, beta, seed, 0.5 / beta, gain / beta + shift + seed / 50)
    ...         for loss, gain in (("dpo", 0.5), ("ipo", 0.4))
    ...         for beta in (0.1, 0.4)
    ...         for seed in (0, 1, 2)
    ...     ]
    ...     return pd.DataFrame(rows, columns=["loss", "strength", "seed", "kl", "reward"])
    >>> found = compare_across([world(0.0), world(0.3)], baseline="dpo", kl=[1.25])
    >>> found[["loss", "sweeps", "better_in", "verdict"]].values.tolist()
    [['ipo', 2, 0, 'worse']]
    """
    from dpo_bench.analysis.across import across_frame

    results = [_loaded(one).results for one in sweeps]
    return across_frame(results, baseline=baseline, kl=kl, metric=metric)


def _loaded(source: Sweep | PathLike | pd.DataFrame) -> Sweep:
    if isinstance(source, Sweep):
        return source
    if isinstance(source, str | Path) and not Path(source).is_file():
        return load_sweep(source)
    return load_results(source)


def evaluate(
    policy: str,
    *,
    experiment: PathLike | None = None,
    reference: str | None = None,
    preferences: str | None = None,
    reward: str | None = None,
    evaluation: Section | None = None,
    data: Section | None = None,
    settings: Sequence[str] = (),
    out: PathLike | None = None,
    loudness: Loudness = "quiet",
) -> pd.DataFrame:
    """Measure an existing policy against a reference; trains nothing.

    Args:
        policy: what is measured: hub id, folder, .gguf, smollm2 or world:reviews.
        experiment: an experiment file whose conditions hold, or the name of a shipped one.
        reference: what it is compared with.
        preferences: held-out prompts and pairs.
        reward: as for `run_sweep`.
        evaluation: keys of ``[evaluation]``.
        data: keys of ``[data]``.
        settings: further keys, as ``section.key=value``.
        out: also write the tables into this folder.
        loudness: what is said while it runs.

    Returns:
        a row per metric: metric, value, low, high (95%), n (prompts), unit.

    Raises:
        DpoBenchError: the policy, the reference or the data cannot be used.
    """
    from dpo_bench.sweep.display import make_display
    from dpo_bench.sweep.single import evaluate_policy, write_evaluation

    flags = Overrides(
        reference=reference,
        preferences=preferences,
        reward=reward,
        settings=tuple(settings),
        sections=_given(evaluation=evaluation, data=data),
    )
    file = None if experiment is None else str(experiment)
    display: Display = make_display(_stderr(), loudness)
    found = evaluate_policy(resolve_evaluation(file, policy, flags), policy, display)
    if out is not None:
        write_evaluation(found, Path(out))
    return _metrics_frame(found)


def _metrics_frame(found: PolicyEvaluation) -> pd.DataFrame:
    import pandas as pd

    from dpo_bench.analysis.metrics import BY_NAME

    rows = [
        (name, one.value, one.low, one.high, one.n, BY_NAME[name].unit)
        for name, one in found.metrics.items()
    ]
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "n", "unit"])


def _resolved(experiment: PathLike | Experiment | None, flags: Overrides) -> Experiment:
    if experiment is None or isinstance(experiment, str | Path):
        return resolve(None if experiment is None else str(experiment), flags)
    if flags != Overrides():
        raise ConfigurationError("give an Experiment, or a file and keys, not both.")
    return experiment


def _given(**sections: Section | None) -> dict[str, dict[str, Any]]:
    """The sections that the caller gave keys for."""
    return {name: dict(keys) for name, keys in sections.items() if keys}


def _texts(values: Sequence[float | str] | float | str) -> tuple[str, ...]:
    """Numbers as the command line has them, which gives texts."""
    listed = [values] if isinstance(values, int | float | str) else values
    return tuple(value if isinstance(value, str) else repr(value) for value in listed)


def _write_report(folder: Path) -> Path:
    from dpo_bench.report.write import write_report

    return write_report(folder)


def _stderr() -> Any:
    from dpo_bench.terminal import Terminal

    return Terminal(stderr=True)
