"""Responses of a policy to the evaluation prompts, each with its KL to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dpo_bench.evaluation.engines import Engine, builtin
from dpo_bench.model.logprob_backends import common_path
from dpo_bench.model.logprobs import LogprobBackend, score, sum_by_row
from dpo_bench.model.out_of_memory import in_passes
from dpo_bench.model.sampling import Response, SamplingPlan
from dpo_bench.progress import Progress, quiet

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from dpo_bench.evaluation.prompts import EvaluationPrompts


def draw_responses(
    backend: LogprobBackend,
    tokenizer: Any,
    prompts: EvaluationPrompts,
    plan: SamplingPlan,
    progress: Progress = quiet,
    *,
    engine: Engine = builtin,
) -> tuple[list[Response], pd.DataFrame]:
    """Sample responses; returns them with a table of their texts.

    The table has the columns prompt_id, sample, prompt, response, response_ids (token ids, the end
    token included), tokens (their number) and finished, and a row per response.
    """
    import pandas as pd

    responses = engine(backend, prompts.tokens, plan, progress)
    # The end token is no part of the text; other special tokens are what the policy really wrote,
    # but no reward expects them.
    texts = tokenizer.batch_decode(
        [list(response.tokens) for response in responses], skip_special_tokens=True
    )
    table = pd.DataFrame(
        {
            "prompt_id": [response.prompt_id for response in responses],
            "sample": [response.sample for response in responses],
            "prompt": [prompts.prompts[response.prompt_id].text for response in responses],
            "response": [text.strip() for text in texts],
            "response_ids": [list(response.tokens) for response in responses],
            "tokens": [len(response.tokens) for response in responses],
            "finished": [response.finished for response in responses],
        }
    )
    return responses, table


class SequenceScores(NamedTuple):
    """What two models say of each response, summed over its tokens; shape [response], nats.

    Attributes:
        kl: the Rao-Blackwellised KL to the reference: the exact KL between the next-token
            distributions, summed over the positions (Amini et al. 2025, arXiv:2504.10637).
        kl_monte_carlo: the plain Monte Carlo estimate, the response's log-ratio.
        entropy: of the policy's next-token distributions.
    """

    kl: NDArray[np.float64]
    kl_monte_carlo: NDArray[np.float64]
    entropy: NDArray[np.float64]


def sequence_kl(
    policy: LogprobBackend,
    reference: LogprobBackend,
    prompts: EvaluationPrompts,
    responses: Sequence[Response],
    progress: Progress = quiet,
) -> SequenceScores:
    """KL(policy || reference) of each response at temperature 1, and the policy's entropy.

    The responses must have been sampled from the policy at temperature 1. Then both estimates of
    the KL are unbiased for responses of at most ``max_new_tokens`` tokens; the first varies less.
    With policy and reference exchanged, and responses of the reference, it is the reverse KL.
    """
    path = common_path(policy, reference)
    sizes = np.fromiter(
        (len(prompts.tokens[one.prompt_id]) + len(one.tokens) for one in responses), np.int64
    )
    texts = [(prompts.tokens[one.prompt_id], one.tokens) for one in responses]
    parts = in_passes(
        path,
        sizes,
        _score_pass,
        policy,
        reference,
        part_of=lambda rows: texts[rows.start : rows.stop],
        told=("KL to the reference", progress),
    )
    return SequenceScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _score_pass(
    policy: LogprobBackend,
    reference: LogprobBackend,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> list[NDArray[np.float64]]:
    """KL, log-ratio and entropy of each of some prompts' responses."""
    path = common_path(policy, reference)
    batch = path.response_batch(*zip(*texts, strict=True))
    scores = score(policy, reference, batch)
    ratio = scores.policy_logp - scores.reference_logp
    return [
        sum_by_row(values, batch.lengths).double().cpu().numpy()
        for values in (scores.kl, ratio, scores.entropy)
    ]
