"""The responses of a sweep from which its optimal frontier is estimated, as arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.analysis.tilting import PolicySamples

_NEEDED = ("prompt_id", "sample", "reward", "kl_monte_carlo")
_OTHER_RESPONSES = "kl_response_ids"
"""stands where the log-ratios are those of other responses than the rewards': the temperature was
not 1, and the scored responses were drawn from no policy whose log-probs are known"""


def pooled_frontier(
    reference: pd.DataFrame, policies: Iterable[pd.DataFrame], prompts: pd.Index
) -> Frontier | None:
    """The frontier of the reference's samples and of the policies', where these carry it on.

    Args:
        reference: its ``samples.parquet``: prompt_id, sample, reward.
        policies: each one's ``samples.parquet``; those are left out that lack log-ratios, a reward
            or a prompt, or have another number of responses than the first.
        prompts: ids, in the order of the frontier's rows.

    Returns:
        None where a reward of the reference is missing.
    """
    if "reward" not in reference:
        return None
    rewards = _by_prompt(reference, "reward", prompts)
    if not rewards.size or np.isnan(rewards).any():
        return None
    return Frontier(rewards, _policy_samples(policies, prompts))


def _policy_samples(policies: Iterable[pd.DataFrame], prompts: pd.Index) -> PolicySamples | None:
    found: list[tuple[Array, Array]] = []
    for samples in policies:
        if _OTHER_RESPONSES in samples or not set(_NEEDED) <= set(samples):
            continue
        both = _by_prompt(samples, "reward", prompts), _by_prompt(samples, _NEEDED[-1], prompts)
        complete = all(np.isfinite(table).all() for table in both)
        if complete and both[0].size and both[0].shape == (found or [both])[0][0].shape:
            found.append(both)
    if not found:
        return None
    return PolicySamples(*(np.stack(tables) for tables in zip(*found, strict=True)))


def _by_prompt(samples: pd.DataFrame, column: str, prompts: pd.Index) -> Array:
    """A column as [prompts, responses]; NaN where a response is missing."""
    table = samples.pivot(index="prompt_id", columns="sample", values=column)
    return table.reindex(prompts).to_numpy(np.float64)
