"""What a policy's responses look like, whatever they are worth: length, variety, decay.

N-grams are of tokens. ``repetition`` is the share of a response's 4-grams that it has said before
(Su et al. 2022, arXiv:2202.06417, rep-4). ``distinct_2`` is the share of distinct 2-grams among all
of the responses to one prompt (Li et al. 2016, arXiv:1510.03055, there over a corpus: taken by
prompt it has an interval), so it is comparable only at the same number of samples.

A policy is called degenerate when, compared with the reference's own responses under the same
random numbers, at least one of these holds:

- repetition is higher by .2 or more,
- the share of responses that equal the most frequent one is higher by .2 or more,
- the share of empty responses is higher by .2 or more,
- the share of responses that reach ``max_new_tokens`` without ending is higher by .5 or more.

It is a flag to look at the samples, with no interval: no test of anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dpo_bench.analysis.bootstrap import Array

if TYPE_CHECKING:
    import pandas as pd

    from dpo_bench.model.sampling import Response

LIMITS = {"repetition": 0.2, "most_common": 0.2, "empty": 0.2, "unfinished": 0.5}
"""How much above the reference's each share may be before a policy is called degenerate."""


def repetition(tokens: Sequence[int], size: int = 4) -> float:
    """Share of a response's n-grams that occurred in it before; 0 when it has none.

    >>> repetition([1, 2, 1, 2, 1, 2, 1])
    0.5
    """
    grams = ngrams(tokens, size)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(responses: Sequence[Sequence[int]], size: int = 2) -> float:
    """Share of distinct n-grams among all n-grams of some responses; NaN when there are none.

    >>> distinct([[1, 2, 3], [1, 2, 4]])
    0.75
    """
    grams = [gram for tokens in responses for gram in ngrams(tokens, size)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def ngrams(tokens: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """All runs of ``size`` neighboring tokens."""
    return [tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]


def repetitions(responses: Sequence[Response]) -> list[float]:
    """`repetition` of each response."""
    return [repetition(response.tokens) for response in responses]


def distinct_by_prompt(responses: Sequence[Response], prompts: int) -> Array:
    """`distinct` of each prompt's responses, shape [prompt]."""
    texts: list[list[tuple[int, ...]]] = [[] for _ in range(prompts)]
    for response in responses:
        texts[response.prompt_id].append(response.tokens)
    return np.array([distinct(one) for one in texts])


def decay(table: pd.DataFrame) -> dict[str, float]:
    """The shares by which decay is told, of a table of responses.

    Args:
        table: with the columns response, finished and repetition, a row per response.
    """
    texts = Counter(table["response"])
    return {
        "repetition": float(table["repetition"].mean()),
        "most_common": max(texts.values()) / len(table),
        "empty": float((table["response"].str.strip() == "").mean()),
        "unfinished": float(1 - table["finished"].mean()),
    }


def degenerate(policy: Mapping[str, float], reference: Mapping[str, float]) -> list[str]:
    """The shares that call a policy degenerate; none when it is not.

    Args:
        policy: from `decay`.
        reference: the same of the reference's own responses.
    """
    return [name for name, limit in LIMITS.items() if policy[name] >= reference[name] + limit]
