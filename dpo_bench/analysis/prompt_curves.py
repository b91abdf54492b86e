"""Each loss's curve over KL, prompt by prompt: its policies after training and along it.

Every policy of a loss is a point: one for each strength, and one more for each strength and step at
which `evaluation.every` measured it. The last step is the trial's own evaluation and counts once.
Losses are compared by their policies after training alone: half-way through a learning-rate
schedule a policy reaches less at the same KL than one that is trained to the end. The others are
drawn, a curve for each step. The policies of several training seeds at the same strength and step
are one point with a row per seed; a seed keeps its name over all losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.halves import split_prompts
from dpo_bench.analysis.looks import Look
from dpo_bench.analysis.loss_curves import GridPoint, LossCurve
from dpo_bench.analysis.metrics import KL, REWARD, WIN_RATE, Metric
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.readings import outline
from dpo_bench.analysis.results import SweepResults
from dpo_bench.errors import ConfigurationError

TOO_FEW = "A comparison needs at least two losses with finished trials."
NO_KL = "Without KLs to the reference there is nothing to compare at matched KL."
NOTHING_SCORED = "Without a reward of each response there is nothing to compare at matched KL."
_COLUMNS = {KL.name: "kl", REWARD.name: "reward", WIN_RATE.name: "win_reference"}
"""where a trial's tables hold each measure, response by response"""


@dataclass(frozen=True, slots=True)
class _Policy:
    """A strength at a step: each seed's means by prompt."""

    step: int
    seeds: list[tuple[int, pd.DataFrame]]


@dataclass(frozen=True, eq=False)
class CurvesOnPrompts:
    """The curves of all series on the prompts that all policies answered.

    Attributes:
        measures: what is read off at a KL, the headline first.
        by_measure: by a measure's name and by index of series, as text; the KLs are the same.
        prompts: ids, sorted.
        weights: [resamples, prompts] of the bootstrap that serves all comparisons; None where only
            means of whole runs are known.
        seed: of what is simulated over these prompts.
        doubts: by index of series, for each of its trained points why its policies are doubtful;
            empty where they are not.
        tuned: whether these are the half of the prompts that tuned nothing.
        looks: the seeds of each planned look that was made, and its chance of a false verdict.
        waits: whether a planned look is still to be made before anything is said of losses.
    """

    measures: tuple[Metric, ...]
    by_measure: Mapping[str, Curves]
    prompts: pd.Index
    weights: Array | None
    seed: int
    doubts: Mapping[str, Sequence[str]]
    tuned: bool = False
    looks: tuple[Look, ...] = ()
    waits: bool = False

    @property
    def prompts_known(self) -> bool:
        """Whether figures are known prompt by prompt, not only run by run."""
        return self.weights is not None

    @property
    def curves(self) -> Curves:
        """Those of the headline measure."""
        return self.by_measure[self.measures[0].name]

    def lines(self, series: LossCurve, measure: Metric) -> dict[int, list[tuple[float, float]]]:
        """By step KL (nats) and value along a curve, as it is read off; empty without any."""
        points = self.by_measure.get(measure.name, {}).get(str(series.index), ())
        return outline(points)


def compared_measures(results: SweepResults) -> tuple[Metric, ...]:
    """What losses are compared by: reward and win rate; under a judge only the latter."""
    if not results.has_wins:
        return ()
    wanted = (REWARD, WIN_RATE) if results.has_reward else (WIN_RATE,)
    if not results.done:
        return wanted
    known = [set(trial.samples.columns) for trial in results.done]
    return tuple(one for one in wanted if all(_COLUMNS[one.name] in columns for columns in known))


def bootstrap_weights(results: SweepResults, prompts: int) -> Array | None:
    """The resamples that serve all comparisons of a sweep; None where prompts are not known."""
    if not results.prompts_known:
        return None
    return resample_weights(prompts, results.resamples, results.bootstrap_seed)


def read_curves(results: SweepResults, series: Sequence[LossCurve]) -> CurvesOnPrompts | str:
    """The curve of every loss with finished trials; a sentence instead where there is none."""
    measures = compared_measures(results)
    if not measures:
        return NOTHING_SCORED
    if results.done and not results.has_kl:
        return NO_KL
    columns = {one.name: _COLUMNS[one.name] for one in (KL, *measures)}
    policies = {
        str(one.index): [p for s in one.settings if s.done for p in _policies(s, columns)]
        for one in series
        if one.on_curve
    }
    if not policies:
        return TOO_FEW
    prompts = _shared_prompts(
        table for found in policies.values() for policy in found for _, table in policy.seeds
    )
    if not len(prompts):
        return "The trials share no prompt on which all of them were scored."
    tuned = any(len(one.options) > 1 for one in series)
    if tuned and results.prompts_known:
        _, prompts = split_prompts(prompts, held_out(results))
    return CurvesOnPrompts(
        measures,
        {
            measure.name: {
                index: [_point(policy, measure.name, prompts) for policy in found]
                for index, found in policies.items()
            }
            for measure in measures
        },
        prompts,
        bootstrap_weights(results, len(prompts)),
        results.bootstrap_seed,
        {
            str(one.index): [setting.doubts for setting in one.settings if setting.done]
            for one in series
        },
        tuned,
        looks_made(results),
        awaits_look(results),
    )


def held_out(results: SweepResults) -> pd.Index:
    """The ids of all held-out prompts; empty where the reference's responses are not known."""
    known = results.reference.prompts
    return pd.Index(known["prompt_id"]) if "prompt_id" in known else pd.Index([])


def looks_made(results: SweepResults) -> tuple[Look, ...]:
    """The planned looks that a searched sweep has made."""
    return tuple(
        (tuple(map(int, one["seeds"])), float(one["level"]))
        for one in results.search.get("looks") or ()
    )


def awaits_look(results: SweepResults) -> bool:
    """Whether a searched sweep goes on and has not come to its first planned look."""
    search = results.search
    return bool(search) and not search.get("looks") and not search.get("end")


def trained_points(
    results: SweepResults, groups: Sequence[Sequence[GridPoint]], measure: Metric
) -> tuple[list[list[Point]], pd.Index]:
    """Groups of settings as points after training, on the prompts that all of them answered.

    Without KLs in the results all points lie at KL 0.
    """
    known = results.has_kl
    columns = {one.name: _COLUMNS[one.name] for one in ((KL, measure) if known else (measure,))}
    tables = [
        [[(t.seed, _by_prompt(t.samples, columns)) for t in s.done] for s in group if s.done]
        for group in groups
    ]
    flat = [table for group in tables for setting in group for _, table in setting]
    if not flat:
        return [[] for _ in groups], pd.Index([])
    prompts = _shared_prompts(flat)
    if not known:
        for table in flat:
            table[KL.name] = 0.0
    points = [
        [_point(_Policy(0, setting), measure.name, prompts) for setting in group]
        for group in tables
    ]
    return points, prompts


def primary_name(results: SweepResults) -> Metric | None:
    """The measure that the experiment's verdicts are about; None where nothing was scored."""
    measures = compared_measures(results)
    stated = dict(results.experiment.get("comparison") or {}).get("measure")
    return next((one for one in measures if one.name == stated), next(iter(measures), None))


def _policies(setting: GridPoint, columns: Mapping[str, str]) -> Iterator[_Policy]:
    """A strength after training, then at each step at which any of its seeds was measured."""
    last = max(int(trial.value("steps") or 0) for trial in setting.done)
    yield _Policy(last, [(one.seed, _by_prompt(one.samples, columns)) for one in setting.done])
    along: dict[int, _Policy] = {}
    for trial in setting.done:
        if len(trial.checkpoint_prompts):
            for key, table in trial.checkpoint_prompts.groupby("step"):
                policy = along.setdefault(step := int(str(key)), _Policy(step, []))
                policy.seeds.append((trial.seed, _by_prompt(table, columns)))
    yield from (along[step] for step in sorted(along))


def _by_prompt(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Means of each prompt that has all figures, by the measures' names."""
    picked = pd.DataFrame({name: table[column] for name, column in columns.items()})
    return picked.astype(float).groupby(table["prompt_id"]).mean().dropna()


def _shared_prompts(tables: Iterable[pd.DataFrame]) -> pd.Index:
    """Prompts that every policy answered and that were scored, sorted."""
    indices = [table.index for table in tables]
    return reduce(lambda left, right: left.intersection(right), indices).sort_values()


def _point(policy: _Policy, measure: str, prompts: pd.Index) -> Point:
    """Seeds are kept apart; the comparison averages over them prompt by prompt."""
    tables = [table.loc[prompts] for _, table in policy.seeds]
    kl, values = (
        np.stack([table[name].to_numpy(float) for table in tables]) for name in (KL.name, measure)
    )
    return Point(kl, values, [seed for seed, _ in policy.seeds], policy.step)


def unmatched_curves(series: Sequence[LossCurve], measure: Metric) -> Curves:
    """Curves of one point each, at KL 0, for results without KLs: losses as they are.

    Raises:
        ConfigurationError: a loss has several strengths, which only a KL makes comparable, or the
            measure is missing.
    """
    columns = {measure.name: _COLUMNS[measure.name]}
    tables: dict[str, list[tuple[int, pd.DataFrame]]] = {}
    for one in (one for one in series if one.on_curve):
        if len(one.settings) > 1:
            raise ConfigurationError(
                f"{one.label} has {len(one.settings)} strengths and no KL is known: losses of"
                " several strengths are compared at matched KL alone."
            )
        if any(columns[measure.name] not in trial.samples for trial in one.on_curve):
            raise ConfigurationError(f"the results of {one.label} have no {measure.phrase}.")
        tables[str(one.index)] = [(t.seed, _by_prompt(t.samples, columns)) for t in one.on_curve]
    prompts = _shared_prompts(table for found in tables.values() for _, table in found)
    if not len(prompts):
        raise ConfigurationError("the losses share no prompt: nothing can be compared.")
    curves = {}
    for index, found in tables.items():
        values = np.stack([table.loc[prompts, measure.name].to_numpy(float) for _, table in found])
        seeds = [seed for seed, _ in found]
        curves[index] = [Point(np.zeros_like(values), values, seeds)]
    return curves
