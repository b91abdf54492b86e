"""The reference, evaluated once for all trials that share it.

Its responses are every policy's opponents, and give the optimal reward-KL frontier and the
best-of-n curve. They come from another random stream than the policies' own responses: with the
same numbers a policy near the reference would meet its own words, and ties would hide its wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dpo_bench.evaluation.frontier import Frontier, best_of_n
from dpo_bench.evaluation.responses import draw_responses
from dpo_bench.evaluation.statistics import bootstrap_mean, resample_weights
from dpo_bench.model.sampling import SamplingPlan
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import published_folder, write_json
from dpo_bench.tables import read_parquet, write_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.evaluation.prompts import EvaluationPrompts
    from dpo_bench.evaluation.rewards import Reward
    from dpo_bench.experiment.config import Evaluation
    from dpo_bench.model.logps import LogpPath


@dataclass(frozen=True, slots=True)
class ReferenceEvaluation:
    """What the trials need of the reference.

    Attributes:
        rewards: of the opponents, shape [prompt, reference_samples]; None without a reward.
        chosen_rewards: of the dataset's chosen responses, shape [prompt]; None without a reward.
    """

    rewards: NDArray[np.float64] | None
    chosen_rewards: NDArray[np.float64] | None

    @classmethod
    def load(cls, folder: Path) -> ReferenceEvaluation:
        """Read a folder that `evaluate_reference` wrote."""
        samples = read_parquet(folder / "samples.parquet")
        prompts = read_parquet(folder / "prompts.parquet")
        if samples["reward"].isna().all():
            return cls(None, None)
        return cls(
            samples["reward"].to_numpy(np.float64).reshape(len(prompts), -1),
            prompts["chosen_reward"].to_numpy(np.float64),
        )


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


def evaluate_reference(
    folder: Path,
    reference: LogpPath,
    *,
    tokenizer: Any,
    end_tokens: frozenset[int],
    prompts: EvaluationPrompts,
    reward: Reward | None,
    options: Evaluation,
    progress: Progress = quiet,
) -> None:
    """Sample and score the reference; publishes ``folder`` with its tables.

    Raises:
        DataError: the reward fails on a response.
    """

    def draw(stream: str, samples: int) -> pd.DataFrame:
        plan = sampling_plan(options, end_tokens, stream, samples, options.temperature)
        _, table = draw_responses(
            reference,
            tokenizer,
            prompts,
            plan,
            lambda _, done, total: progress("reference: sampling", done, total),
        )
        table["reward"] = (
            np.nan if reward is None else reward.score(table["prompt"], table["response"])
        )
        return table

    opponents = draw("opponents", options.reference_samples)
    own = draw("policy", options.samples_per_prompt)
    chosen = pd.DataFrame(
        {"prompt_id": range(len(prompts)), "prompt": prompts.texts, "chosen": prompts.chosen}
    )
    chosen["chosen_reward"] = (
        np.nan if reward is None else reward.score(chosen["prompt"], chosen["chosen"])
    )
    weights = resample_weights(len(prompts), options.resamples, options.seed)
    with published_folder(folder) as new:
        write_parquet(new / "samples.parquet", opponents.drop(columns="finished"))
        write_parquet(new / "prompts.parquet", chosen)
        # At another temperature the samples are not the reference's own, and the tilt of their
        # rewards says nothing about its frontier.
        if reward is not None and options.temperature == 1:
            rewards = opponents["reward"].to_numpy().reshape(len(prompts), -1)
            write_parquet(new / "frontier.parquet", Frontier(rewards).table(weights))
            write_parquet(new / "best_of_n.parquet", best_of_n(rewards, weights))
        columns = ["response_tokens"] if reward is None else ["reward", "response_tokens"]
        per_prompt = own.rename(columns={"tokens": "response_tokens"}).groupby("prompt_id")[columns]
        metrics = {
            name: bootstrap_mean(values.to_numpy(np.float64), weights).as_dict()
            for name, values in per_prompt.mean().items()
        }
        write_json(new / "evaluation.json", {"metrics": metrics})
