"""A sweep's results as tidy tables, for whoever goes on with them in pandas."""

from __future__ import annotations

import pandas as pd

from dpo_bench.analysis.loss_curves import varying
from dpo_bench.analysis.metrics import explored
from dpo_bench.analysis.results import OWN_KEYS, SweepResults, Trial

DOUBTS = ("cut", "degenerate")
"""Columns that say whether a trial's figures are those of a policy that still answers."""


def trials(results: SweepResults) -> pd.DataFrame:
    """A row per trial: trial, loss, hyperparameters, seed, status, error, cut, degenerate, metrics.

    Each hyperparameter and each metric is a column, and so is each key of training in which trials
    differ. A hyperparameter that a loss does not have is missing; so is a metric that was not
    measured. ``cut`` is the share of responses that reached
    the token limit, ``degenerate`` is 1 where the stated rule flags the policy: figures of such
    trials are to be read with care, and neither is left out of a table or a curve.
    """
    names = [metric.name for metric in explored(results) if metric.name not in DOUBTS]
    settings = dict.fromkeys(key for one in results.trials for key in one.hyperparameters)
    differing = varying([one.training for one in results.trials])
    own = [key for key in OWN_KEYS if key in differing and key not in settings]
    rows = [
        {
            **_which(one),
            **{key: one.hyperparameters.get(key) for key in settings},
            **{key: one.training.get(key) for key in own},
            "seed": one.seed,
            "status": one.status,
            "error": one.error,
            "cut": one.cut,
            "degenerate": one.value("degenerate"),
            **{name: one.value(name) for name in names},
        }
        for one in results.trials
    ]
    columns = ["trial", "loss", *settings, *own, "seed", "status", "error", *DOUBTS, *names]
    kinds = dict.fromkeys((*settings, *DOUBTS, *names), "float64")
    return pd.DataFrame(rows, columns=columns).astype(kinds)


def metrics(results: SweepResults) -> pd.DataFrame:
    """A row per trial and metric: trial, metric, value, low, high (95%), n (prompts), unit."""
    rows = [
        {
            "trial": one.id,
            "metric": metric.name,
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "n": found.n,
            "unit": metric.unit,
        }
        for one in results.done
        for metric in explored(results)
        if not (found := one.estimate(metric.name)).is_missing
    ]
    return pd.DataFrame(rows, columns=["trial", "metric", "value", "low", "high", "n", "unit"])


def samples(results: SweepResults) -> pd.DataFrame:
    """A row per response of every policy, with the columns of ``samples.parquet``."""
    return _joined(results, "samples")


def training_log(results: SweepResults) -> pd.DataFrame:
    """A row per trial and logged step, with the columns of ``training.parquet``."""
    return _joined(results, "training_log")


def checkpoints(results: SweepResults) -> pd.DataFrame:
    """A row per trial and evaluation along training; empty where there was none."""
    return _joined(results, "checkpoints")


def frontier(results: SweepResults) -> pd.DataFrame:
    """The best mean reward at each KL that is known: kl, reward, low, high.

    From the reference's responses, and from the policies' where these carry it on. Empty where the
    results have no reference's responses, or no reward.
    """
    rows = [(one.kl, one.reward.value, one.reward.low, one.reward.high) for one in results.frontier]
    return pd.DataFrame(rows, columns=["kl", "reward", "low", "high"])


def _which(trial: Trial) -> dict[str, str]:
    return {"trial": trial.id, "loss": trial.loss}


def _joined(results: SweepResults, name: str) -> pd.DataFrame:
    tables = [
        table.assign(trial=one.id, loss=one.loss, strength=one.strength, seed=one.seed)
        for one in results.trials
        if len(table := getattr(one, name))
    ]
    keys = ["trial", "loss", "strength", "seed"]
    if not tables:
        return pd.DataFrame(columns=keys)
    joined: pd.DataFrame = pd.concat(tables, ignore_index=True)
    return joined.loc[:, [*keys, *(column for column in joined if column not in keys)]]
