"""Several sweeps as one: the trials of all, each once, where they can be compared at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from dpo_bench.analysis.loss_curves import by_loss, setting_key, spelled
from dpo_bench.analysis.results import OWN_KEYS, SweepResults, Trial, read_sweep
from dpo_bench.analysis.series import RATE, entry_name
from dpo_bench.analysis.tuning import choose_paths
from dpo_bench.errors import ConfigurationError
from dpo_bench.wording import counted, listing, one_line

_HARMLESS = ("keep_policies", "content.device")
"""conditions that may differ: they decide what is kept, and which machine computes"""
_TUNED = tuple(f"training.{key}" for key in OWN_KEYS)
"""conditions that may differ because trials may: each loss is tuned over them"""
_MEANINGS = {
    "content.data": "the preference data",
    "content.policy": "the policy's starting point",
    "content.reference": "the reference",
    "content.reward": "the reward",
    "recipe": "the version of the training recipe",
}


def read_sweeps(folders: Sequence[Path]) -> SweepResults:
    """A sweep, or several merged into one.

    Raises:
        ConfigurationError: a folder holds no sweep, or they do not compare.
    """
    sweeps = [read_sweep(folder) for folder in dict.fromkeys(folders)]
    return sweeps[0] if len(sweeps) == 1 else merge_sweeps(sweeps)


def merge_sweeps(sweeps: Sequence[SweepResults]) -> SweepResults:
    """One comparison of several sweeps.

    A trial that several sweeps share (the same identity) counts once and names them all. The
    reference's responses are those of the first sweep.

    Args:
        sweeps: two or more, in the order given.

    Raises:
        ConfigurationError: two sweeps differ in a condition, so that their trials do not compare;
            or the same setting was trained with different source of its loss.
    """
    first = sweeps[0]
    for other in sweeps[1:]:
        _require_comparable(first, other)
    names = _names(sweeps)
    trials = tuple(_trials(sweeps, names))
    kept = {trial.id for trial in trials}
    tables = pd.concat([sweep.table for sweep in sweeps]).drop_duplicates("trial")
    tables = tables[tables["trial"].isin(kept)].reset_index(drop=True)
    by_id = {trial.id: ", ".join(trial.sources) for trial in trials}
    tables.insert(1, "source", [by_id[one] for one in tables["trial"]])
    merged = replace(
        first,
        table=tables,
        experiment=_experiment(sweeps, names),
        command="\n".join(dict.fromkeys(sweep.command for sweep in sweeps)),
        platform="; ".join(dict.fromkeys(sweep.platform for sweep in sweeps)),
        planned=tuple(dict.fromkeys(one for sweep in sweeps for one in sweep.planned)),
        trials=trials,
        search=_search(sweeps, trials),
        sources=names,
        remarks=tuple(_remarks(sweeps, names, sum(map(len, (s.trials for s in sweeps))), trials)),
    )
    return replace(merged, search=_with_choices(merged))


def _require_comparable(first: SweepResults, other: SweepResults) -> None:
    if not first.conditions or not other.conditions:
        lacking = first if not first.conditions else other
        raise ConfigurationError(
            f"{lacking.folder} records no conditions: run its sweep again before merging it."
        )
    ours, theirs = dict(_flat(first.conditions)), dict(_flat(other.conditions))
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in (*_HARMLESS, *_TUNED) and ours.get(key) != theirs.get(key):
            raise ConfigurationError(
                f"{first.folder} and {other.folder} cannot be compared:"
                f" {_MEANINGS.get(key, key)} differs ({_short(ours.get(key))} and"
                f" {_short(theirs.get(key))}). Report them apart, or run one under the other's"
                " conditions."
            )


def _flat(conditions: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in conditions.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    return one_line(str(value), 20) if value is not None else "not set"


def _names(sweeps: Sequence[SweepResults]) -> tuple[str, ...]:
    """The folders' names; numbered where two are alike."""
    names = [sweep.folder.resolve().name for sweep in sweeps]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({place})"
        for place, name in enumerate(names, 1)
    )


def _trials(sweeps: Sequence[SweepResults], names: Sequence[str]) -> Iterator[Trial]:
    """Every trial once: by identity, or by its setting where another machine ran it too."""
    sources: dict[str, list[str]] = {}
    taken: dict[tuple[Any, ...], tuple[Trial, SweepResults]] = {}
    for sweep, name in zip(sweeps, names, strict=True):
        for trial in sweep.trials:
            known, owner = taken.setdefault(_setting(trial), (trial, sweep))
            if known.id != trial.id and _device(owner) == _device(sweep):
                raise ConfigurationError(
                    f"{owner.folder} and {sweep.folder} cannot be compared: the source of the loss"
                    f" {one_line(trial.loss, 40)} differs between them. Run one of them again."
                )
            sources.setdefault(known.id, []).append(name)
    for trial, _ in taken.values():
        yield replace(trial, sources=tuple(dict.fromkeys(sources[trial.id])))


def _setting(trial: Trial) -> tuple[Any, ...]:
    """What was trained, whatever the machine."""
    return trial.loss, setting_key(trial), trial.seed


def _device(sweep: SweepResults) -> str:
    return str(dict(_flat(sweep.conditions)).get("content.device", ""))


def _experiment(sweeps: Sequence[SweepResults], names: Sequence[str]) -> dict[str, Any]:
    experiment = dict(sweeps[0].experiment)
    seeds = sorted({seed for sweep in sweeps for seed in sweep.training.get("seeds", ())})
    losses = [loss for sweep in sweeps for loss in sweep.experiment.get("losses", ())]
    training = dict(sweeps[0].training) | {"seeds": seeds}
    return experiment | {"name": listing(names), "losses": losses, "training": training}


def _remarks(
    sweeps: Sequence[SweepResults], names: Sequence[str], total: int, trials: Sequence[Trial]
) -> Iterator[str]:
    yield f"Merged from {len(names)} sweeps made under the same conditions: {listing(names)}."
    if repeated := total - len(trials):
        where = "in more than one sweep and"
        shared = counted(repeated, f"trial occurs {where} counts", f"trials occur {where} count")
        yield f"{shared} once.{_apart(sweeps)}"
    if differing := _own_values(sweeps):
        told = listing([f"{key} ({'; '.join(values)})" for key, values in differing.items()])
        yield (
            f"They differ in {told}: a loss that has several values is tuned over them, on one half"
            " of the prompts, and compared on the other; a loss that has one is as it is."
        )
    machines = _machines(sweeps)
    if len(machines) > 1:
        yield (
            f"The sweeps ran on different machines or versions ({'; '.join(machines)}): rounding"
            " differs between them, so that differences between losses also hold that between"
            " machines. Win rates are against the reference's responses on each trial's own"
            " machine."
        )


def _own_values(sweeps: Sequence[SweepResults]) -> dict[str, list[str]]:
    """The keys of training in which trials of the sweeps differ, with their values in words."""
    found: dict[str, dict[str, None]] = {}
    for sweep in sweeps:
        for trial in sweep.trials:
            for key, value in trial.training.items():
                found.setdefault(key, {})[spelled(value)] = None
    return {key: list(values) for key, values in found.items() if len(values) > 1}


def _search(sweeps: Sequence[SweepResults], trials: Sequence[Trial]) -> dict[str, Any]:
    """What the searches among the sweeps found, in one; empty where there was none.

    Of a sweep with given strengths all trials make the curves. Looks were planned for each sweep by
    itself: none holds for all of them.
    """
    if not any(sweep.search for sweep in sweeps):
        return {}
    _require_rates_alone(sweeps)
    rates = [_base(sweep).get(RATE) for sweep in sweeps]
    series: dict[str, dict[str, Any]] = {}
    for sweep, rate in zip(sweeps, rates, strict=True):
        for found in sweep.search.get("series") or _as_searched(sweep):
            one = _at_rate(found, rate) if len(set(rates)) > 1 else found
            known = series.setdefault(one["key"], {**one, "path": []})
            known["path"] = list(dict.fromkeys([*known["path"], *one.get("path", ())]))
    kept = {trial.id for trial in trials}
    for known in series.values():
        known["path"] = [one for one in known["path"] if one in kept]
    return {"trials": sorted(kept), "series": list(series.values()), "looks": [], "end": "merged"}


def _base(sweep: SweepResults) -> dict[str, Any]:
    """A sweep's ``[training]`` as it was run."""
    return dict(sweep.conditions.get("training") or {})


def _require_rates_alone(sweeps: Sequence[SweepResults]) -> None:
    """Raise ConfigurationError where searches differ in more of training than the learning rate."""
    first = _base(sweeps[0])
    for other in map(_base, sweeps[1:]):
        for key in OWN_KEYS:
            if key != RATE and first.get(key) != other.get(key):
                raise ConfigurationError(
                    f"{listing([str(sweep.folder) for sweep in sweeps])} cannot be compared: they"
                    f" were searched, and training.{key} differs ({_short(first.get(key))} and"
                    f" {_short(other.get(key))}). Search with one of them."
                )


def _at_rate(series: Mapping[str, Any], rate: Any) -> dict[str, Any]:
    """A loss's search as one of several learning rates, of which one is still to be chosen."""
    if rate is None or series.get(RATE) is not None or f" {RATE}=" in series["key"]:
        return dict(series)
    return {**series, "key": f"{series['key']} {RATE}={rate:g}", RATE: rate, "chosen": None}


def _with_choices(merged: SweepResults) -> dict[str, Any]:
    """The search with a learning rate chosen for each loss that was searched at several."""
    series = [dict(one) for one in merged.search.get("series", ())]
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in series:
        if one.get(RATE) is not None:
            groups.setdefault(entry_name(one), []).append(one)
    for rates in groups.values():
        best = choose_paths(merged, [one["path"] for one in rates]) if len(rates) > 1 else 0
        for place, one in enumerate(rates):
            one["chosen"] = place == best
    return {**merged.search, "series": series} if series else dict(merged.search)


def _as_searched(sweep: SweepResults) -> Iterator[dict[str, Any]]:
    """The losses of a sweep with given strengths, in the form of a search's record."""
    groups = by_loss(sweep.trials)
    for group in groups:
        first = group[0]
        names = (
            []
            if len(groups) == len({one[0].loss for one in groups})
            else sorted(first.hyperparameters.keys() - {first.strength_name})
        )
        key = " ".join([first.loss, *(f"{n}={first.hyperparameters[n]}" for n in names)])
        yield {"key": key, "loss": key, "chosen": True, "path": [one.id for one in group]}


def _machines(sweeps: Sequence[SweepResults]) -> list[str]:
    """What rounding depends on, in words, once for each that is different."""
    names = sorted({name for sweep in sweeps for name in sweep.versions})
    differing = [name for name in names if len({s.versions.get(name) for s in sweeps}) > 1]

    def words(sweep: SweepResults) -> str:
        device = _device(sweep)
        parts = [sweep.platform, *([] if sweep.platform.endswith(device) else [device])]
        return ", ".join([*parts, *(f"{one} {sweep.versions.get(one)}" for one in differing)])

    return list(dict.fromkeys(map(words, sweeps)))


def _apart(sweeps: Sequence[SweepResults]) -> str:
    """How far the sweeps are apart in the trials that they share, a sentence; else nothing."""
    kl, win_rate = (_largest_gap(sweeps, figure) for figure in ("kl", "win_rate"))
    if not kl and not win_rate:
        return ""
    return (
        f" Computed on both machines, their KL is up to {kl:.2g} nats and their win rate up to"
        f" {win_rate:.2g} apart: that much is rounding."
    )


def _largest_gap(sweeps: Sequence[SweepResults], figure: str) -> float:
    """The largest difference between sweeps in a figure of the same trial."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for trial in (trial for sweep in sweeps for trial in sweep.done):
        if (value := trial.value(figure)) is not None:
            found.setdefault(_setting(trial), []).append(value)
    return max((max(values) - min(values) for values in found.values()), default=0.0)
