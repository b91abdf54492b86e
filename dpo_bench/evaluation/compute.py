"""The metrics of one policy, each with its interval over prompts.

What each is stands in `dpo_bench.analysis.metrics`. Those that are means over responses or held-out
pairs are computed as their entry says; the others here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import Array, bootstrap, bootstrap_mean, resample_weights
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.metrics import METRICS, FromRows
from dpo_bench.analysis.win_rates import win_rate
from dpo_bench.evaluation.calibration import calibration, reliability
from dpo_bench.evaluation.diagnostics import decay, degenerate, distinct_by_prompt

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dpo_bench.analysis.frontier import Frontier
    from dpo_bench.evaluation.reference_evaluation import ReferenceEvaluation
    from dpo_bench.model.sampling import Response


class PolicyMetrics:
    """Collects the metrics of one policy.

    Args:
        prompt_of_pair: the prompt of each held-out pair, shape [pair].
        weights: [resamples, prompts] from `statistics.resample_weights`.
        seed: of the bootstrap, where prompts without a verdict are left out.
        reference: the reference's evaluation.

    Attributes:
        metrics: so far, by name.
        notes: what is no metric.
    """

    def __init__(
        self,
        prompt_of_pair: NDArray[np.int64],
        weights: Array,
        seed: int,
        reference: ReferenceEvaluation,
    ) -> None:
        self.prompt_of_pair = prompt_of_pair
        self.weights = weights
        self.seed = seed
        self.reference = reference
        self.metrics: dict[str, Estimate] = {}
        self.notes: dict[str, Any] = {}

    def add_samples(self, samples: pd.DataFrame, frontier: Frontier | None) -> None:
        """Metrics of the sampled responses."""
        self._add_rows("samples", samples, samples["prompt_id"])
        lengths = samples.groupby("prompt_id")["tokens"].mean().to_numpy(np.float64)
        drift = lengths - self.reference.own_tokens
        self.metrics["length_drift"] = bootstrap_mean(drift, self.weights)
        self._add_decay(samples)
        if frontier is not None:
            means = samples.groupby("prompt_id")[["reward", "kl"]].mean()
            gap = frontier.gap(means["reward"].to_numpy(), means["kl"].to_numpy(), self.weights)
            if gap is not None:
                self.metrics["frontier_gap"] = gap

    def add_variety(self, responses: Sequence[Response]) -> None:
        """Distinct 2-grams among each prompt's responses."""
        variety = distinct_by_prompt(responses, self.weights.shape[1])
        self._add("distinct_2", pd.Series(variety), pd.Series(range(len(variety))))

    def add_heldout(self, heldout: pd.DataFrame, scale: float | None) -> None:
        """Metrics of the held-out pairs; calibration where the implicit reward has a scale."""
        self._add_rows("heldout", heldout, pd.Series(self.prompt_of_pair))
        if scale is not None:
            margin = heldout["margin"]
            self.metrics |= calibration(margin, scale, self.prompt_of_pair, self.weights)
            self.notes["reliability"] = {"scale": scale, "bins": reliability(margin, scale)}

    def _add(
        self,
        name: str,
        values: pd.Series[float],
        prompts: pd.Series[int],
        mean: Callable[[ArrayLike, Array], Estimate] = bootstrap_mean,
    ) -> None:
        """The mean over prompts of the means over each prompt's values.

        A prompt without any value (a judge gave no verdict) is left out, and n says so.
        """
        means: Array = np.asarray(values.groupby(prompts.to_numpy()).mean(), dtype=np.float64)
        known = means[~np.isnan(means)]
        if not len(known):
            return
        weights = self.weights
        if len(known) < len(means):
            weights = resample_weights(len(known), len(weights), self.seed)
        self.metrics[name] = mean(known, weights)

    def _add_rows(self, name: str, table: pd.DataFrame, prompts: pd.Series[int]) -> None:
        """The metrics that are computed from the rows of a table."""
        for metric in METRICS:
            rows = metric.rows
            if rows is None or rows.table != name or rows.column not in table:
                continue
            if rows.over:
                self._add_ratio(metric.name, rows, table, prompts)
            elif table[rows.column].notna().any():
                mean = win_rate if rows.wins else bootstrap_mean
                self._add(metric.name, rows.values(table), prompts, mean)

    def _add_ratio(
        self, name: str, rows: FromRows, table: pd.DataFrame, prompts: pd.Series[int]
    ) -> None:
        """The sum of a column over all rows, divided by that of another."""
        sums = table.groupby(prompts.to_numpy())[[rows.column, rows.over]].sum()
        self.metrics[name] = bootstrap(
            lambda means: means[:, 0] / means[:, 1], sums.to_numpy(np.float64), self.weights
        )

    def _add_decay(self, samples: pd.DataFrame) -> None:
        shares = decay(samples)
        reasons = degenerate(shares, decay(self.reference.own))
        self.notes["decay"] = shares
        self.notes["degenerate"] = reasons
        flag = float(bool(reasons))
        self.metrics["degenerate"] = Estimate(flag, math.nan, math.nan, self.weights.shape[1])
