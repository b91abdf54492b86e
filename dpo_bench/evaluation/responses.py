"""Responses of a policy to the evaluation prompts, each with its KL to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_bench.data.batches import consecutive_passes
from dpo_bench.model.logps import LogpPath, score, sum_by_row
from dpo_bench.model.paths import common_path
from dpo_bench.model.sampling import Response, SamplingPlan, sample_responses
from dpo_bench.progress import Progress, quiet

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from dpo_bench.evaluation.prompts import EvaluationPrompts


def draw_responses(
    path: LogpPath,
    tokenizer: Any,
    prompts: EvaluationPrompts,
    plan: SamplingPlan,
    progress: Progress = quiet,
) -> tuple[list[Response], pd.DataFrame]:
    """Sample responses; returns them with a table of their texts.

    The table has the columns prompt_id, sample, prompt, response, tokens (the end token counted)
    and finished, and a row per response.
    """
    import pandas as pd

    responses = sample_responses(path.model, prompts.tokens, plan, path.autocast, progress)
    # The end token is no part of the text; other special tokens are what the policy really wrote,
    # but no reward expects them.
    texts = tokenizer.batch_decode(
        [list(response.tokens) for response in responses], skip_special_tokens=True
    )
    table = pd.DataFrame(
        {
            "prompt_id": [response.prompt_id for response in responses],
            "sample": [response.sample for response in responses],
            "prompt": [prompts.texts[response.prompt_id] for response in responses],
            "response": [text.strip() for text in texts],
            "tokens": [len(response.tokens) for response in responses],
            "finished": [response.finished for response in responses],
        }
    )
    return responses, table


def sequence_kl(
    policy: LogpPath,
    reference: LogpPath,
    prompts: EvaluationPrompts,
    responses: Sequence[Response],
    progress: Progress = quiet,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """KL(policy || reference) of each response, nats per sequence, at temperature 1.

    The responses must have been sampled from the policy at temperature 1.

    Returns:
        Two arrays of shape [response]. First the Rao-Blackwellised estimate: the exact KL between
        the next-token distributions, summed over the positions of the response (Amini et al. 2025,
        arXiv:2504.10637). Second the plain Monte Carlo estimate, the response's log-ratio. Both are
        unbiased for responses of at most ``max_new_tokens`` tokens; the first varies less.
    """
    exact: list[NDArray[np.float64]] = []
    plain: list[NDArray[np.float64]] = []
    path = common_path(policy, reference)
    sizes = np.fromiter(
        (len(prompts.tokens[one.prompt_id]) + len(one.tokens) for one in responses), np.int64
    )
    for rows in consecutive_passes(sizes, path.tokens_per_pass()):
        part = responses[rows.start : rows.stop]
        batch = path.response_batch(
            [prompts.tokens[response.prompt_id] for response in part],
            [response.tokens for response in part],
        )
        scores = score(policy, reference, batch)
        ratio = scores.policy_logp - scores.reference_logp
        exact.append(sum_by_row(scores.kl, batch.lengths).double().cpu().numpy())
        plain.append(sum_by_row(ratio, batch.lengths).double().cpu().numpy())
        progress("KL to the reference", rows.stop, len(responses))
    return np.concatenate(exact), np.concatenate(plain)
