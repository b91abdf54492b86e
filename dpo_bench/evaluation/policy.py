"""One policy, measured against the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dpo_bench.data.batches import consecutive_passes
from dpo_bench.evaluation.frontier import Frontier
from dpo_bench.evaluation.reference import ReferenceEvaluation, sampling_plan
from dpo_bench.evaluation.responses import draw_responses, sequence_kl
from dpo_bench.evaluation.statistics import (
    Estimate,
    bootstrap_mean,
    resample_weights,
    win_fraction,
)
from dpo_bench.model.logps import LogpPath, sum_by_row, token_logps
from dpo_bench.progress import Progress, quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.evaluation.prompts import EvaluationPrompts
    from dpo_bench.evaluation.rewards import Reward
    from dpo_bench.experiment.config import Evaluation
    from dpo_bench.model.reference_cache import ReferenceLogps
    from dpo_bench.model.sampling import Response


@dataclass(frozen=True, slots=True)
class PolicyEvaluation:
    """What is known of one policy.

    Attributes:
        samples: a row per response: prompt_id, sample, prompt, response, tokens, finished, reward,
            kl, kl_monte_carlo (nats per sequence), win_reference, win_chosen (in [0, 1]). Where the
            temperature is not 1, the KLs are those of further responses to the same prompt.
        heldout: a row per held-out pair: pair_id, margin, chosen_logratio, rejected_logratio, nats.
        metrics: each with its 95% interval, bootstrapped over prompts.
    """

    samples: pd.DataFrame
    heldout: pd.DataFrame
    metrics: Mapping[str, Estimate]


class Evaluator:
    """Measures any number of policies in the same way: same prompts, same sampling seeds."""

    def __init__(
        self,
        *,
        reference: LogpPath,
        heldout_reference: ReferenceLogps,
        evaluation: ReferenceEvaluation,
        tokenizer: Any,
        end_tokens: frozenset[int],
        prompts: EvaluationPrompts,
        reward: Reward | None,
        options: Evaluation,
    ) -> None:
        self.reference = reference
        self.heldout_reference = heldout_reference
        self.evaluation = evaluation
        self.tokenizer = tokenizer
        self.end_tokens = end_tokens
        self.prompts = prompts
        self.reward = reward
        self.options = options
        self.weights = resample_weights(len(prompts), options.resamples, options.seed)

    def evaluate(self, policy: LogpPath, progress: Progress = quiet) -> PolicyEvaluation:
        """Sample, score and compare one policy.

        Raises:
            DataError: the reward fails on a response.
        """
        samples = self._samples(policy, progress)
        heldout = self._heldout(policy, progress)
        return PolicyEvaluation(samples, heldout, self._metrics(samples, heldout))

    def _samples(self, policy: LogpPath, progress: Progress) -> pd.DataFrame:
        responses, table = self._draw(policy, "policy", self.options.temperature, progress)
        self._add_rewards(table)
        if self.options.temperature != 1:
            # The reward sees the temperature that was asked for; the KL is always that of the
            # policy itself, so it needs responses of its own.
            responses, _ = self._draw(policy, "kl", 1.0, progress)
        table["kl"], table["kl_monte_carlo"] = sequence_kl(
            policy, self.reference, self.prompts, responses, progress
        )
        return table

    def _draw(
        self, policy: LogpPath, stream: str, temperature: float, progress: Progress
    ) -> tuple[list[Response], pd.DataFrame]:
        plan = sampling_plan(
            self.options, self.end_tokens, stream, self.options.samples_per_prompt, temperature
        )
        return draw_responses(policy, self.tokenizer, self.prompts, plan, progress)

    def _add_rewards(self, table: pd.DataFrame) -> None:
        rewards, chosen = self.evaluation.rewards, self.evaluation.chosen_rewards
        if self.reward is None or rewards is None or chosen is None:
            table[["reward", "win_reference", "win_chosen"]] = np.nan
            return
        table["reward"] = self.reward.score(table["prompt"], table["response"])
        own = table["reward"].to_numpy().reshape(len(self.prompts), -1)
        table["win_reference"] = win_fraction(own, rewards).ravel()
        table["win_chosen"] = win_fraction(own, chosen[:, None]).ravel()

    def _heldout(self, policy: LogpPath, progress: Progress) -> pd.DataFrame:
        pairs = self.prompts.pairs
        parts = []
        for indices in consecutive_passes(pairs.sizes, policy.tokens_per_pass()):
            batch = policy.batch(pairs, indices)
            with torch.inference_mode():
                sums = sum_by_row(token_logps(policy, batch), batch.lengths)
            parts.append(sums.view(2, -1).double().cpu())
            progress("held-out pairs", indices.stop, len(pairs))
        chosen, rejected = torch.cat(parts, dim=1)
        table = pd.DataFrame({"pair_id": range(len(pairs))})
        table["chosen_logratio"] = (chosen - self.heldout_reference.chosen.double()).numpy()
        table["rejected_logratio"] = (rejected - self.heldout_reference.rejected.double()).numpy()
        table.insert(1, "margin", table["chosen_logratio"] - table["rejected_logratio"])
        return table

    def _metrics(self, samples: pd.DataFrame, heldout: pd.DataFrame) -> dict[str, Estimate]:
        metrics: dict[str, Estimate] = {}

        def add(name: str, values: pd.Series[float], prompts: NDArray[np.int64]) -> None:
            per_prompt = values.groupby(prompts).mean().to_numpy(np.float64)
            metrics[name] = bootstrap_mean(per_prompt, self.weights)

        prompt_of_sample = samples["prompt_id"].to_numpy()
        if self.reward is not None:
            add("reward", samples["reward"], prompt_of_sample)
            add("win_rate", samples["win_reference"], prompt_of_sample)
            add("win_rate_chosen", samples["win_chosen"], prompt_of_sample)
        add("kl", samples["kl"], prompt_of_sample)
        add("kl_monte_carlo", samples["kl_monte_carlo"], prompt_of_sample)
        add("response_tokens", samples["tokens"], prompt_of_sample)
        won = (heldout["margin"] > 0) + 0.5 * (heldout["margin"] == 0)
        add("preference_accuracy", won, self.prompts.prompt_of_pair)
        for name in ("margin", "chosen_logratio", "rejected_logratio"):
            add(name, heldout[name], self.prompts.prompt_of_pair)
        if (gap := self._frontier_gap(samples)) is not None:
            metrics["frontier_gap"] = gap
        return metrics

    def _frontier_gap(self, samples: pd.DataFrame) -> Estimate | None:
        if self.evaluation.rewards is None or self.options.temperature != 1:
            return None
        means = samples.groupby("prompt_id")[["reward", "kl"]].mean()
        return Frontier(self.evaluation.rewards).gap(
            means["reward"].to_numpy(), means["kl"].to_numpy(), self.weights
        )
