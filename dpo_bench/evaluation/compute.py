"""The figures of one policy, each with its interval over prompts.

===================  ===============================================================================
reward               mean reward of the policy's responses; missing under a judge
win_rate             share of the reference's responses that they beat, ties a half
win_rate_chosen      the same against the dataset's chosen responses
kl                   KL(policy || reference) per response, nats, Rao-Blackwellised
kl_monte_carlo       the same from log-ratios alone
kl_per_token         the sum of the KLs of all responses over the sum of their tokens, nats per
                     token: the mean over tokens that papers plot which divide by length. A policy
                     that learns to write more can lower it while its KL rises; it is no divergence
                     between the two models' responses, and is never used to match policies
kl_reverse           KL(reference || policy) per response of the reference, nats; on request
response_tokens      mean length, tokens
length_drift         the same minus the reference's mean length to the same prompts, tokens
token_entropy        entropy of the next token, nats per token, at temperature 1
repetition           see `diagnostics`; distinct_2 and degenerate likewise
preference_accuracy  share of held-out pairs with a positive margin, ties a half
misordered           share of held-out pairs with a negative margin
margin               chosen minus rejected log-ratio, nats
chosen_logratio      of held-out chosen responses, nats: below 0 their likelihood was displaced
rejected_logratio    of held-out rejected responses, nats
displaced            share of held-out chosen responses that became less likely
brier                see `calibration`; calibration_error likewise
frontier_gap         reward that the best policy of the same KL would have more
judge_consistency    share of judged pairs on which both orders agree
===================  ===============================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import (
    Array,
    Estimate,
    bootstrap,
    bootstrap_mean,
    resample_weights,
)
from dpo_bench.evaluation.calibration import calibration, reliability
from dpo_bench.evaluation.diagnostics import decay, degenerate, distinct_by_prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.analysis.frontier import Frontier
    from dpo_bench.evaluation.reference_evaluation import ReferenceEvaluation
    from dpo_bench.model.sampling import Response


class Figures:
    """Collects the figures of one policy.

    Args:
        prompt_of_pair: the prompt of each held-out pair, shape [pair].
        weights: [resamples, prompts] from `statistics.resample_weights`.
        seed: of the bootstrap, where prompts without a verdict are left out.
        reference: the reference's evaluation.

    Attributes:
        metrics: the figures so far.
        notes: what is no figure.
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
        """Figures of the sampled responses."""
        for name, column in (
            ("reward", "reward"),
            ("win_rate", "win_reference"),
            ("win_rate_chosen", "win_chosen"),
            ("judge_consistency", "judge_agreed"),
            ("kl", "kl"),
            ("kl_monte_carlo", "kl_monte_carlo"),
            ("kl_reverse", "kl_reverse"),
            ("response_tokens", "tokens"),
            ("repetition", "repetition"),
        ):
            if column in samples and samples[column].notna().any():
                self._add(name, samples[column], samples["prompt_id"])
        self._add_ratios(samples)
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
        """Figures of the held-out pairs; calibration where the implicit reward has a scale."""
        margin, prompts = heldout["margin"], pd.Series(self.prompt_of_pair)
        won = (margin > 0) + 0.5 * (margin == 0)
        self._add("preference_accuracy", won, prompts)
        self._add("misordered", (margin < 0).astype(float), prompts)
        for name in ("margin", "chosen_logratio", "rejected_logratio"):
            self._add(name, heldout[name], prompts)
        self._add("displaced", (heldout["chosen_logratio"] < 0).astype(float), prompts)
        if scale is not None:
            self.metrics |= calibration(margin, scale, self.prompt_of_pair, self.weights)
            self.notes["reliability"] = {"scale": scale, "bins": reliability(margin, scale)}

    def _add(self, name: str, values: pd.Series[float], prompts: pd.Series[int]) -> None:
        """The mean over prompts of the means over each prompt's values.

        A prompt without any value (a judge gave no verdict) is left out, and n says so.
        """
        means = values.groupby(prompts.to_numpy()).mean().to_numpy(np.float64)
        known = means[~np.isnan(means)]
        if not len(known):
            return
        weights = self.weights
        if len(known) < len(means):
            weights = resample_weights(len(known), len(weights), self.seed)
        self.metrics[name] = bootstrap_mean(known, weights)

    def _add_ratios(self, samples: pd.DataFrame) -> None:
        """Figures per token: sums over all responses, divided by their tokens."""
        sums = samples.groupby("prompt_id")[["kl", "entropy", "kl_tokens"]].sum()
        for name, column in (("kl_per_token", "kl"), ("token_entropy", "entropy")):
            self.metrics[name] = bootstrap(
                lambda means: means[:, 0] / means[:, 1],
                sums[[column, "kl_tokens"]].to_numpy(np.float64),
                self.weights,
            )

    def _add_decay(self, samples: pd.DataFrame) -> None:
        shares = decay(samples)
        reasons = degenerate(shares, decay(self.reference.own))
        self.notes["decay"] = shares
        self.notes["degenerate"] = reasons
        flag = float(bool(reasons))
        self.metrics["degenerate"] = Estimate(flag, math.nan, math.nan, self.weights.shape[1])
