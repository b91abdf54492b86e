"""Win rate and KL to the reference as metrics of Hugging Face's ``evaluate``.

They call the functions that the evaluator calls, so that figures computed from saved samples agree
with a sweep's. Nothing is downloaded and nothing written: data stays in memory, and the cache
folder that ``evaluate`` would make is not made.

>>> from dpo_bench.evaluation.hf_metrics import WinRate
>>> result = WinRate().compute(predictions=[0.9, 0.1], references=[0.5, 0.1])
>>> result["win_rate"], result["n"]
(0.75, 2)

Importing this module imports ``evaluate``, which takes seconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import (
    Array,
    bootstrap_mean,
    cluster_means,
    resample_weights,
    win_fraction,
)
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.win_rates import win_rate

_NUMBER = Value("float64")
_PROMPT_IDS = (Value("int64"), Value("string"))

_CLUSTERS = """
    prompt_ids: int or str for each row, optional: rows of one prompt are averaged first, and the
        interval is over prompts. Without it every row counts as a prompt of its own.
    resamples (int): bootstrap resamples, 2000; to `compute` only.
    seed (int): of the bootstrap, 0; to `compute` only."""


class _InMemoryMetric(evaluate.Metric):  # type: ignore[misc]
    """A metric that keeps its rows in memory and whose optional columns may be left out."""

    optional: tuple[str, ...] = ()

    def __init__(self, **options: Any) -> None:
        options.setdefault("experiment_id", str(uuid.uuid4()))
        super().__init__(keep_in_memory=True, **options)

    def _build_data_dir(self) -> str:
        """Name the folder without making it: nothing is ever written there."""
        return str(Path(self._data_dir_root) / self.name / self.config_name)

    def add_batch(self, **columns: Any) -> None:
        """Add rows; an optional column that is left out is empty."""
        given = {name: column for name, column in columns.items() if column is not None}
        required = [name for name in self._feature_names() if name not in self.optional]
        if given and (missing := [name for name in required if name not in given]):
            raise ValueError(f"{self.name} also needs {', '.join(missing)}")
        rows = max((len(column) for column in given.values()), default=0)
        if not rows:
            raise ValueError(f"{self.name} needs at least one row")
        empty = {name: [None] * rows for name in self.optional}
        super().add_batch(**empty | given)

    def add(self, **row: Any) -> None:
        """Add one row; an optional value that is left out is empty."""
        super().add(**dict.fromkeys(self.optional) | row)

    def compute(self, **columns: Any) -> dict[str, Any]:
        """Compute from these rows, or from those added before."""
        names = self._feature_names()
        if any(columns.get(name) is not None for name in names):
            self.add_batch(**{name: columns.pop(name, None) for name in names})
        if self.writer is None:
            raise ValueError(f"{self.name} needs at least one row")
        result: dict[str, Any] = super().compute(**columns)
        return result


class WinRate(_InMemoryMetric):
    """Share of policy responses that beat an opponent's on the same prompt, ties a half."""

    optional = ("prompt_ids",)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of responses whose reward is above their opponents', ties counted"
            " half, with a 95% interval over prompts: a bootstrap's, or Wilson's near 0 and 1.",
            citation="Rafailov et al. 2023, Direct Preference Optimization, arXiv:2305.18290",
            inputs_description=f"""
Args:
    predictions: the reward of the policy's response in each row.
    references: the reward of its opponent, or a list with one for each of several opponents.
{_CLUSTERS.strip(chr(10))}

Returns:
    win_rate, win_rate_low, win_rate_high (None for a single prompt), n (prompts).
""",
            features=[
                Features({"predictions": _NUMBER, "references": opponent, "prompt_ids": ids})
                for opponent in (_NUMBER, List(_NUMBER))
                for ids in _PROMPT_IDS
            ],
        )

    def _compute(
        self,
        *,
        predictions: Sequence[float],
        references: Sequence[float] | Sequence[Sequence[float]],
        prompt_ids: Sequence[int | str | None],
        resamples: int = 2000,
        seed: int = 0,
    ) -> dict[str, float | int | None]:
        rewards = _numbers("predictions", predictions)
        opponents = [np.atleast_1d(np.array(row, dtype=np.float64)) for row in references]
        _refuse("references", [not row.size or bool(np.isnan(row).any()) for row in opponents])
        won = [
            float(win_fraction([[reward]], row[None])[0, 0])
            for reward, row in zip(rewards, opponents, strict=True)
        ]
        estimate = _estimate(np.array(won), prompt_ids, resamples, seed, win_rate)
        return _named("win_rate", estimate) | {"n": estimate.n}


class KLToReference(_InMemoryMetric):
    """KL(policy || reference) of whole responses, over the policy's own samples, in nats."""

    optional = ("policy_logps", "reference_logps", "sequence_kls", "prompt_ids")

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="KL(policy || reference) per sequence, nats, over responses sampled from"
            " the policy at temperature 1, with a 95% bootstrap interval over prompts. kl is"
            " Rao-Blackwellised: the full next-token KL at each sampled position, summed over the"
            " response. kl_monte_carlo is the mean log-ratio of the sampled tokens: also unbiased,"
            " but noisier.",
            citation="Amini et al. 2025, Better Estimation of the KL Divergence Between Language"
            " Models, arXiv:2504.10637",
            inputs_description=f"""
Args:
    sequence_kls: next-token KLs summed over each response, nats; for kl.
    policy_logps: log-probability of each response under the policy, nats; for kl_monte_carlo.
    reference_logps: the same under the reference.
{_CLUSTERS.strip(chr(10))}

Returns:
    kl, kl_low, kl_high, kl_monte_carlo, kl_monte_carlo_low, kl_monte_carlo_high (None where the
    columns for it are missing), n (prompts).
""",
            features=[
                Features(
                    {
                        "policy_logps": _NUMBER,
                        "reference_logps": _NUMBER,
                        "sequence_kls": _NUMBER,
                        "prompt_ids": ids,
                    }
                )
                for ids in _PROMPT_IDS
            ],
        )

    def _compute(
        self,
        *,
        policy_logps: Sequence[float | None],
        reference_logps: Sequence[float | None],
        sequence_kls: Sequence[float | None],
        prompt_ids: Sequence[int | str | None],
        resamples: int = 2000,
        seed: int = 0,
    ) -> dict[str, float | int | None]:
        given = [
            any(number is not None for number in column)
            for column in (sequence_kls, policy_logps, reference_logps)
        ]
        if given[1] != given[2] or not any(given):
            raise ValueError(
                "give sequence_kls, or policy_logps with reference_logps, or all three"
            )
        exact = sampled = Estimate.missing()
        if given[0]:
            exact = _estimate(_numbers("sequence_kls", sequence_kls), prompt_ids, resamples, seed)
        if given[1]:
            ratios = _numbers("policy_logps", policy_logps)
            ratios = ratios - _numbers("reference_logps", reference_logps)
            sampled = _estimate(ratios, prompt_ids, resamples, seed)
        return (
            _named("kl", exact) | _named("kl_monte_carlo", sampled) | {"n": max(exact.n, sampled.n)}
        )


def _numbers(name: str, column: Sequence[float | None]) -> Array:
    numbers = np.array(column, dtype=np.float64)
    _refuse(name, np.isnan(numbers))
    return numbers


def _refuse(name: str, missing: ArrayLike) -> None:
    rows = np.flatnonzero(missing)
    if len(rows):
        raise ValueError(f"{name}: {len(rows)} values are missing, the first in row {rows[0] + 1}")


def _estimate(
    values: Array,
    prompt_ids: Sequence[int | str | None],
    resamples: int,
    seed: int,
    mean: Callable[[Array, Array], Estimate] = bootstrap_mean,
) -> Estimate:
    missing = sum(one is None for one in prompt_ids)
    if 0 < missing < len(prompt_ids):
        raise ValueError(f"{missing} of {len(prompt_ids)} rows have no prompt id: give all or none")
    means = values if missing else cluster_means(values, np.array(prompt_ids))
    return mean(means, resample_weights(len(means), resamples, seed))


def _named(name: str, estimate: Estimate) -> dict[str, float | int | None]:
    fields = estimate.as_dict()
    return {name: fields["value"], f"{name}_low": fields["low"], f"{name}_high": fields["high"]}
