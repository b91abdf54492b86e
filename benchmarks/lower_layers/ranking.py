"""Does a ranking of losses survive another way to train? Kendall's tau, regret and verdicts.

Losses are read off at the same KL by the project's own curves, run by run and prompt by prompt.
What is uncertain is resampled: prompts, the same for all conditions and losses, and training
seeds, by condition and the same for all its losses. Of S seeds deviations are widened by
sqrt(S / (S - 1)), by which resampling so few falls short. Resampled rankings carry the noise twice
(that of the data and that of the resampling), so that tau lies lower in them than it is: the
interval errs towards "not the same".
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import kendalltau

import dpo_bench as db
from dpo_bench.analysis.bootstrap import resample_weights
from dpo_bench.analysis.prompt_curves import read_curves
from dpo_bench.analysis.readings import Reading, curves_in_common
from dpo_bench.analysis.series import group_series

Array = NDArray[np.float64]
DRAWS = 2000
COLUMNS = [
    "kl", "first", "second", "losses", "tau", "low", "high", "regret", "regret_low", "regret_high",
]  # fmt: skip
"""Of `agreement`; figures are missing where fewer than two losses can be read."""
SEED = 20240229


@dataclass(frozen=True, eq=False)
class Ranked:
    """Losses of one condition at one KL.

    Attributes:
        values: by loss, reward at the KL; shape [seed, prompt].
        reasons: by loss, why it has none.
    """

    values: Mapping[str, Array]
    reasons: Mapping[str, str]


def read(sweep: db.Sweep, levels: Sequence[float]) -> tuple[dict[float, Ranked], pd.Index]:
    """A condition's losses at each KL, and the ids of the prompts that all its policies answered.

    Raises:
        ValueError: the sweep cannot be read at any KL.
    """
    series = group_series(sweep.results)
    found = read_curves(sweep.results, series)
    if isinstance(found, str):
        raise ValueError(found)  # noqa: TRY004  # what it is was asked, and this is the answer
    names = {str(one.index): one.loss for one in series}
    curves = curves_in_common(found.curves)
    ranked = {}
    for kl in levels:
        tried = {names[key]: curve.read(kl) for key, curve in curves.items()}
        ranked[kl] = Ranked(
            {name: one.values for name, one in tried.items() if isinstance(one, Reading)},
            {name: one for name, one in tried.items() if isinstance(one, str)},
        )
    return ranked, found.prompts


def resampled(values: Array, prompts: Array, seeds: Array) -> Array:
    """Means over seeds and prompts of each resample, shape [draw]; the first is of all.

    Args:
        values: [seed, prompt].
        prompts: weights, shape [draw, prompt].
        seeds: weights, shape [draw, seed].
    """
    count = len(values)
    middle = values.mean(axis=0)
    apart = values - middle
    widened = np.sqrt(count / (count - 1)) if count > 1 else 1.0
    moved = middle + widened * np.einsum("ds,sp->dp", seeds, apart)
    return np.asarray(np.einsum("dp,dp->d", prompts, moved))


def tables(readings: Mapping[str, Ranked]) -> dict[str, pd.DataFrame]:
    """By condition the resampled rewards of the losses that all conditions have at a KL.

    Args:
        readings: at one KL, by condition, on the same prompts.

    Returns:
        frames with a column per loss and a row per resample; the first row is the estimate.
    """
    losses = sorted(set.intersection(*(set(one.values) for one in readings.values())))
    if not losses:
        return {name: pd.DataFrame(index=range(1 + DRAWS)) for name in readings}
    any_values = next(iter(readings.values())).values[losses[0]]
    prompts = _with_all(resample_weights(any_values.shape[1], DRAWS, SEED))
    found = {}
    for place, (name, one) in enumerate(readings.items()):
        columns = {}
        for loss in losses:
            values = one.values[loss]
            seeds = _with_all(resample_weights(len(values), DRAWS, SEED + 1 + place))
            columns[loss] = resampled(values, prompts, seeds)
        found[name] = pd.DataFrame(columns)
    return found


def agreement(readings: Mapping[str, Mapping[float, Ranked]]) -> pd.DataFrame:
    """How far each two conditions rank the losses alike, at each KL.

    Args:
        readings: by condition and KL, on the same prompts.

    Returns:
        kl, first, second, losses (number that both have), tau, low, high (95%, prompts and seeds),
        regret, regret_low, regret_high: what the second condition's first choice loses under the
        first condition against that condition's own.
    """
    rows = []
    for kl in next(iter(readings.values())):
        found = tables({name: one[kl] for name, one in readings.items()})
        for first, second in itertools.combinations(found, 2):
            ours, theirs = found[first].to_numpy(), found[second].to_numpy()
            row = {"kl": kl, "first": first, "second": second, "losses": ours.shape[1]}
            if ours.shape[1] > 1:
                taus = np.array([_tau(a, b) for a, b in zip(ours, theirs, strict=True)])
                row |= _estimate("tau", "", taus)
                regret = ours.max(axis=1) - np.take_along_axis(
                    ours, theirs.argmax(axis=1)[:, None], axis=1
                ).squeeze(1)
                row |= _estimate("regret", "regret_", regret)
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def verdicts(sweeps: Mapping[str, db.Sweep], levels: Sequence[float]) -> pd.DataFrame:
    """What each condition says of every pair: loss, against, kl, and a verdict per condition."""
    found = None
    for name, sweep in sweeps.items():
        own = sweep.compare("reward", kl=list(levels))
        own = own[["loss", "against", "kl", "verdict"]].rename(columns={"verdict": name})
        found = own if found is None else found.merge(own, on=["loss", "against", "kl"])
    if found is None:
        raise ValueError("no condition is compared")
    return found


def disagreements(said: pd.DataFrame, first: str, second: str) -> dict[str, int]:
    """Of all pairs and KLs: how many verdicts of two conditions are what to each other.

    Args:
        said: from `verdicts`.
        first: a condition.
        second: another.
    """
    decided = {"better", "worse"}
    kinds = {"decided alike": 0, "decided the other way": 0, "open in one": 0, "open in both": 0}
    for ours, theirs in said[[first, second]].itertuples(index=False):
        both = [one in decided for one in (ours, theirs)]
        if all(both):
            kinds["decided alike" if ours == theirs else "decided the other way"] += 1
        else:
            kinds["open in one" if any(both) else "open in both"] += 1
    return kinds


def _tau(ours: Array, theirs: Array) -> float:
    return float(kendalltau(ours, theirs).statistic)


def _with_all(weights: Array) -> Array:
    """Weights with a first row that counts all alike."""
    return np.vstack([np.full(weights.shape[1], 1 / weights.shape[1]), weights])


def _estimate(name: str, prefix: str, values: Array) -> dict[str, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {name: float(values[0]), f"{prefix}low": float(low), f"{prefix}high": float(high)}
