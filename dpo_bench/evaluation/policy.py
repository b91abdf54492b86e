"""One policy, measured against the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dpo_bench.analysis.bootstrap import resample_weights
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.evaluation.compute import PolicyMetrics
from dpo_bench.evaluation.diagnostics import repetitions
from dpo_bench.evaluation.engines import find_engine
from dpo_bench.evaluation.reference_evaluation import ReferenceEvaluation, sampling_plan
from dpo_bench.evaluation.responses import draw_responses, sequence_kl
from dpo_bench.model.logprobs import LogprobBackend, sum_by_row, token_logps
from dpo_bench.model.out_of_memory import in_passes
from dpo_bench.progress import Progress, quiet
from dpo_bench.rewards.judge import Judge
from dpo_bench.rewards.scoring import JudgeScoring, NoScoring, RewardScoring, Scoring

if TYPE_CHECKING:
    from dpo_bench.data.tokenized import TokenizedPairs
    from dpo_bench.evaluation.prompts import EvaluationPrompts
    from dpo_bench.experiment.config import Evaluation
    from dpo_bench.model.reference_cache import ReferenceLogps
    from dpo_bench.model.sampling import Response
    from dpo_bench.rewards.base import Prompt, Reward


@dataclass(frozen=True, slots=True)
class PolicyEvaluation:
    """What is known of one policy.

    Attributes:
        samples: a row per response: prompt_id, sample, prompt, response, response_ids (token ids),
            tokens, finished, reward, win_reference, win_chosen (in [0, 1]), judge_agreed,
            repetition, kl, kl_monte_carlo, entropy (nats per sequence), kl_tokens. Where the
            temperature is not 1, the last four are those of further responses to the same prompt,
            whose token ids are kl_response_ids. On request also kl_reverse: of the
            reference's response of that prompt and number.
        heldout: a row per held-out pair: pair_id, margin, chosen_logratio, rejected_logratio, nats.
        metrics: each with its 95% interval, bootstrapped over prompts; see `PolicyMetrics`.
        notes: what is no figure with an interval: costs, reasons, bins.
    """

    samples: pd.DataFrame
    heldout: pd.DataFrame
    metrics: Mapping[str, Estimate]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Evaluator:
    """Measures any number of policies in the same way: same prompts, same sampling seeds."""

    def __init__(
        self,
        *,
        reference: LogprobBackend,
        heldout_reference: ReferenceLogps,
        evaluation: ReferenceEvaluation,
        tokenizer: Any,
        end_tokens: frozenset[int],
        prompts: EvaluationPrompts,
        scorer: Reward | Judge | None,
        options: Evaluation,
    ) -> None:
        self.reference = reference
        self.heldout_reference = heldout_reference
        self.evaluation = evaluation
        self.tokenizer = tokenizer
        self.end_tokens = end_tokens
        self.prompts = prompts
        self.scoring = make_scoring(scorer, prompts.prompts, evaluation, options.judge_opponents)
        self.options = options
        self.engine = find_engine(options)
        self.weights = resample_weights(len(prompts), options.resamples, options.seed)
        self.frontier = (
            Frontier(evaluation.rewards)
            if evaluation.rewards is not None and options.temperature == 1
            else None
        )

    def evaluate(
        self, policy: LogprobBackend, progress: Progress = quiet, *, scale: float | None = None
    ) -> PolicyEvaluation:
        """Sample, score and compare one policy.

        Args:
            policy: is measured.
            progress: told of the parts.
            scale: the beta of the policy's implicit reward, for its calibration; None when it has
                none (`calibration.implicit_scale`).

        Raises:
            DataError: the reward fails on a response.
            TrialError: the judge fails on too many.
        """
        with self.reference.present():
            return self._evaluate(policy, progress, scale)

    def _evaluate(
        self, policy: LogprobBackend, progress: Progress, scale: float | None
    ) -> PolicyEvaluation:
        responses, samples = self._draw(policy, "policy", self.options.temperature, progress)
        cost = self.scoring.score(samples, progress)
        samples["repetition"] = repetitions(responses)
        figures = PolicyMetrics(
            self.prompts.prompt_of_pair, self.weights, self.options.seed, self.evaluation
        )
        figures.add_variety(responses)
        self._add_divergence(policy, responses, samples, progress)
        heldout = self._heldout(policy, progress)
        figures.add_samples(samples, self.frontier)
        figures.add_heldout(heldout, scale)
        return PolicyEvaluation(samples, heldout, figures.metrics, {**figures.notes, **cost})

    def estimate_kl(
        self, policy: LogprobBackend, prompts: int, progress: Progress = quiet
    ) -> tuple[float, float]:
        """A rough KL to the reference: one response to each of the first prompts.

        Returns:
            the mean over prompts and its standard error, nats; the latter NaN for a single prompt.
        """
        tokens = self.prompts.tokens[:prompts]
        plan = sampling_plan(self.options, self.end_tokens, "policy", 1, 1.0)
        responses = self.engine(policy, tokens, plan, progress)
        kl = sequence_kl(policy, self.reference, self.prompts, responses, progress).kl
        if len(kl) == 1:
            return float(kl[0]), float("nan")
        return float(kl.mean()), float(kl.std(ddof=1) / np.sqrt(len(kl)))

    def _add_divergence(
        self,
        policy: LogprobBackend,
        responses: list[Response],
        samples: pd.DataFrame,
        progress: Progress,
    ) -> None:
        if self.options.temperature != 1:
            # The reward sees the temperature that was asked for; the KL is always that of the
            # policy itself, so it needs responses of its own.
            responses, _ = self._draw(policy, "kl", 1.0, progress)
        scores = sequence_kl(policy, self.reference, self.prompts, responses, progress)
        samples["kl"], samples["kl_monte_carlo"] = scores.kl, scores.kl_monte_carlo
        samples["entropy"] = scores.entropy
        samples["kl_tokens"] = [len(response.tokens) for response in responses]
        if self.options.temperature != 1:
            samples["kl_response_ids"] = [list(response.tokens) for response in responses]
        if self.options.kl_reverse:
            reverse = sequence_kl(
                self.reference, policy, self.prompts, self._reference_responses, progress
            )
            samples["kl_reverse"] = reverse.kl

    @cached_property
    def _reference_responses(self) -> list[Response]:
        """Responses of the reference at temperature 1, as many as a policy gives."""
        return self._draw(self.reference, "policy", 1.0, quiet)[0]

    def _draw(
        self, policy: LogprobBackend, stream: str, temperature: float, progress: Progress
    ) -> tuple[list[Response], pd.DataFrame]:
        plan = sampling_plan(
            self.options, self.end_tokens, stream, self.options.samples_per_prompt, temperature
        )
        return draw_responses(
            policy, self.tokenizer, self.prompts, plan, progress, engine=self.engine
        )

    def _heldout(self, policy: LogprobBackend, progress: Progress) -> pd.DataFrame:
        pairs = self.prompts.pairs
        parts = in_passes(
            policy, pairs.sizes, _pair_logps, policy, pairs, told=("held-out pairs", progress)
        )
        chosen, rejected = torch.cat(parts, dim=1)
        table = pd.DataFrame({"pair_id": range(len(pairs))})
        table["chosen_logratio"] = (chosen - self.heldout_reference.chosen.double()).numpy()
        table["rejected_logratio"] = (rejected - self.heldout_reference.rejected.double()).numpy()
        table.insert(1, "margin", table["chosen_logratio"] - table["rejected_logratio"])
        return table


def _pair_logps(policy: LogprobBackend, pairs: TokenizedPairs, indices: range) -> torch.Tensor:
    """Log-probs of some pairs' chosen and rejected responses, fp64, shape [2, pair]."""
    batch = policy.batch(pairs, indices)
    with torch.no_grad():
        sums = sum_by_row(token_logps(policy, batch), batch.lengths)
    return sums.view(2, -1).double().cpu()


def make_scoring(
    scorer: Reward | Judge | None,
    prompts: Sequence[Prompt],
    reference: ReferenceEvaluation,
    opponents_each: int,
) -> Scoring:
    """How a scorer holds responses against an evaluated reference."""
    if scorer is None:
        return NoScoring()
    if isinstance(scorer, Judge):
        return JudgeScoring(scorer, prompts, reference.responses, reference.chosen, opponents_each)
    if reference.rewards is None or reference.chosen_rewards is None:
        raise ValueError("the reference was evaluated without this reward")
    return RewardScoring(scorer, prompts, reference.rewards, reference.chosen_rewards)


def per_prompt(samples: pd.DataFrame) -> pd.DataFrame:
    """Means over each prompt's samples: prompt_id, reward, win_reference, win_chosen, kl, tokens.

    What comparisons at matched KL need of a policy.
    """
    columns = ["reward", "win_reference", "win_chosen", "kl", "tokens"]
    means: pd.DataFrame = samples.groupby("prompt_id")[columns].mean().reset_index()
    return means.astype(dict.fromkeys(columns, np.float64))
