"""The reference, evaluated once for all trials that share it.

Its responses are every policy's opponents, and give the optimal reward-KL frontier and the
best-of-n curve. They come from another random stream than the policies' own responses: with the
same numbers a policy near the reference would meet its own words, and ties would hide its wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import Array, bootstrap, bootstrap_mean, resample_weights
from dpo_bench.analysis.frontier import Frontier, best_of_n
from dpo_bench.evaluation.diagnostics import decay, distinct_by_prompt, repetitions
from dpo_bench.evaluation.engines import find_engine
from dpo_bench.evaluation.reference_precision import excess_error, opponents_needed, rounds
from dpo_bench.evaluation.responses import draw_responses, sequence_kl
from dpo_bench.model.sampling import Response, SamplingPlan
from dpo_bench.progress import Progress, quiet
from dpo_bench.rewards.judge import Judge
from dpo_bench.rewards.sanity_checks import Resampling, SanityCheck, control_judge, control_reward
from dpo_bench.storage import open_folder, write_json, write_parquet

if TYPE_CHECKING:
    from dpo_bench.evaluation.prompts import EvaluationPrompts
    from dpo_bench.experiment.config import Evaluation
    from dpo_bench.model.logprobs import LogprobBackend
    from dpo_bench.rewards.base import Reward


@dataclass(frozen=True, slots=True)
class ReferenceEvaluation:
    """What the trials need of the reference.

    Attributes:
        rewards: of the opponents, shape [prompt, opponent]; None without a reward.
        chosen_rewards: of the dataset's chosen responses, shape [prompt]; None without a reward.
        responses: texts of the opponents, [prompt][opponent].
        chosen: texts of the dataset's chosen responses, [prompt].
        own: a row per response from the policies' own stream: prompt_id, sample, response, tokens,
            finished, repetition.
    """

    rewards: Array | None
    chosen_rewards: Array | None
    responses: tuple[tuple[str, ...], ...]
    chosen: tuple[str, ...]
    own: pd.DataFrame

    @classmethod
    def load(cls, folder: Path) -> ReferenceEvaluation:
        """Read a folder that `evaluate_reference` filled.

        Raises:
            DamagedError: a file is not as it was written.
        """
        tables = open_folder(folder)
        samples = tables.read_parquet("samples.parquet")
        prompts = tables.read_parquet("prompts.parquet")
        scored = not samples["reward"].isna().all()
        shape = (len(prompts), -1)
        return cls(
            rewards=samples["reward"].to_numpy(np.float64).reshape(shape) if scored else None,
            chosen_rewards=prompts["chosen_reward"].to_numpy(np.float64) if scored else None,
            responses=tuple(
                map(tuple, samples["response"].to_numpy(dtype=object).reshape(shape).tolist())
            ),
            chosen=tuple(prompts["chosen"]),
            own=tables.read_parquet("own.parquet"),
        )

    @property
    def own_tokens(self) -> Array:
        """Mean length of the reference's own responses to each prompt, tokens, shape [prompt]."""
        return self.own.groupby("prompt_id")["tokens"].mean().to_numpy(np.float64)


def sampling_plan(
    options: Evaluation, end_tokens: frozenset[int], stream: str, samples: int, temperature: float
) -> SamplingPlan:
    """The plan of one stream of responses under an experiment's settings."""
    return SamplingPlan(
        samples=samples,
        max_new_tokens=options.max_new_tokens,
        temperature=temperature,
        end_tokens=end_tokens,
        seed=options.seed,
        stream=stream,
        rows_per_batch=options.rows_per_batch,
    )


@dataclass(frozen=True)
class _Visit:
    """One evaluation of the reference."""

    reference: LogprobBackend
    tokenizer: Any
    end_tokens: frozenset[int]
    prompts: EvaluationPrompts
    scorer: Reward | Judge | None
    options: Evaluation
    progress: Progress

    @property
    def weights(self) -> Array:
        return resample_weights(len(self.prompts), self.options.resamples, self.options.seed)

    def draw(
        self, stream: str, samples: int, part: range | None = None
    ) -> tuple[list[Response], pd.DataFrame]:
        """Responses with their rewards; a part of them, or all."""
        plan = sampling_plan(
            self.options, self.end_tokens, stream, samples, self.options.temperature
        )
        responses, table = draw_responses(
            self.reference,
            self.tokenizer,
            self.prompts,
            replace(plan, part=part),
            lambda _, done, total: self.progress("reference: sampling", done, total),
            engine=find_engine(self.options),
        )
        table["reward"] = self.score(table["prompt_id"], table["response"])
        return responses, table

    def opponents(self, own: pd.DataFrame) -> pd.DataFrame:
        """The opponents with their rewards, as many as the asked precision needs.

        The first ones of a round are those of the round before, so that fewer are the first of
        more.

        Args:
            own: the reference's responses from the policies' own stream.
        """
        most, precision = self.options.reference_samples, self.options.reference_precision
        if precision is None:
            return self.draw("opponents", most)[1]
        needed = opponents_needed(self.options, self.scorer)
        if needed is not None:
            return self.draw("opponents", most, range(needed))[1]
        tables: list[pd.DataFrame] = []
        rewards = own["reward"].to_numpy(np.float64).reshape(len(self.prompts), -1)
        for taken in rounds(most):
            tables.append(self.draw("opponents", most, taken)[1])
            found = pd.concat(tables).sort_values(["prompt_id", "sample"], ignore_index=True)
            against = found["reward"].to_numpy(np.float64).reshape(len(self.prompts), -1)
            if excess_error(rewards, against) <= precision:
                break
        return found

    def score(self, prompts: Iterable[int], responses: Iterable[str]) -> Array | float:
        """Rewards of responses to the prompts of these indices; NaN where nothing gives numbers."""
        if self.scorer is None or isinstance(self.scorer, Judge):
            return np.nan
        return self.scorer.score(
            self.prompts.pick(prompts),
            responses,
            lambda done, total: self.progress("reference: rewards", done, total),
        )

    @property
    def text_read(self) -> str | None:
        """What the reward reads of the first prompt and its chosen response, if it is a text."""
        if self.scorer is None or isinstance(self.scorer, Judge):
            return None
        return self.scorer.reads(self.prompts.prompts[0], self.prompts.chosen[0])

    def controls(
        self, opponents: pd.DataFrame, chosen: pd.DataFrame
    ) -> tuple[list[SanityCheck], dict[str, Any]]:
        """Controls on the first prompts, and what they took."""
        count = min(self.options.controls, len(self.prompts))
        firsts = opponents[opponents["sample"] == 0].iloc[:count]
        texts = self.prompts.pick(firsts["prompt_id"]), list(firsts["response"])
        draws = Resampling(self.options.resamples, self.options.seed)
        if self.scorer is None:
            return [], {}
        if isinstance(self.scorer, Judge):
            picked = list(chosen["chosen"][:count])
            return control_judge(self.scorer, *texts, picked, draws, progress=self.progress)
        rewards = opponents["reward"].to_numpy(np.float64).reshape(len(self.prompts), -1)
        return control_reward(self.scorer, *texts, rewards[:count], draws), {}

    def metrics(self, responses: list[Response], own: pd.DataFrame) -> dict[str, Any]:
        """Figures of the reference's own responses, with intervals over prompts."""
        weights = self.weights
        per_prompt = own.groupby("prompt_id")[["reward", "tokens", "repetition"]].mean()
        columns = {"response_tokens": per_prompt["tokens"], "repetition": per_prompt["repetition"]}
        if not own["reward"].isna().any():
            columns = {"reward": per_prompt["reward"], **columns}
        metrics = {
            name: bootstrap_mean(values.to_numpy(np.float64), weights).as_dict()
            for name, values in columns.items()
        }
        variety = distinct_by_prompt(responses, len(self.prompts))
        if np.isfinite(variety).all():
            metrics["distinct_2"] = bootstrap_mean(variety, weights).as_dict()
        if self.options.temperature == 1:
            scores = sequence_kl(
                self.reference,
                self.reference,
                self.prompts,
                responses,
                lambda _, done, total: self.progress("reference: entropy", done, total),
            )
            own = own.assign(entropy=scores.entropy)
            sums = own.groupby("prompt_id")[["entropy", "tokens"]].sum().to_numpy(np.float64)
            ratio = bootstrap(lambda means: means[:, 0] / means[:, 1], sums, weights)
            metrics["token_entropy"] = ratio.as_dict()
        return metrics


def evaluate_reference(
    folder: Path,
    reference: LogprobBackend,
    *,
    tokenizer: Any,
    end_tokens: frozenset[int],
    prompts: EvaluationPrompts,
    scorer: Reward | Judge | None,
    options: Evaluation,
    progress: Progress = quiet,
) -> None:
    """Sample and score the reference, run the controls; writes the tables into an empty folder.

    Raises:
        DataError: the reward fails on a response.
        TrialError: the judge fails on too many.
    """
    visit = _Visit(reference, tokenizer, end_tokens, prompts, scorer, options, progress)
    responses, own = visit.draw("policy", options.samples_per_prompt)
    opponents = visit.opponents(own)
    own["repetition"] = repetitions(responses)
    chosen = pd.DataFrame(
        {
            "prompt_id": range(len(prompts)),
            "prompt": [prompt.text for prompt in prompts.prompts],
            "prompt_ids": [list(tokens) for tokens in prompts.tokens],
            "transcript": [prompt.transcript for prompt in prompts.prompts],
            "chosen": prompts.chosen,
        }
    )
    chosen["chosen_reward"] = visit.score(chosen["prompt_id"], chosen["chosen"])
    controls, cost = visit.controls(opponents, chosen)
    write_parquet(folder / "samples.parquet", opponents.drop(columns="finished"))
    write_parquet(folder / "own.parquet", own.drop(columns="prompt"))
    write_parquet(folder / "prompts.parquet", chosen)
    # At another temperature the samples are not the reference's own, and the tilt of their
    # rewards says nothing about its frontier.
    if not opponents["reward"].isna().any() and options.temperature == 1:
        rewards = opponents["reward"].to_numpy(np.float64).reshape(len(prompts), -1)
        write_parquet(folder / "frontier.parquet", Frontier(rewards).table(visit.weights))
        write_parquet(folder / "best_of_n.parquet", best_of_n(rewards, visit.weights))
    record: Mapping[str, Any] = {
        "metrics": visit.metrics(responses, own),
        "controls": {control.name: control.as_dict() for control in controls},
        "controls_cost": cost,
        "decay": decay(own),
        "text_read_by_the_reward": visit.text_read,
    }
    write_json(folder / "evaluation.json", record)
