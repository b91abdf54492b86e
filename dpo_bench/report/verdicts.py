"""What a judge said of one response, in words; the page's script (samples.js) says the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dpo_bench.analysis.estimate import finite

_VERBS = {1.0: "beats", 0.5: "ties with", 0.0: "loses to"}


def verdict_facts(sample: Mapping[Any, Any]) -> Iterator[str]:
    """The verdicts on a response of ``samples.parquet``, a phrase each."""
    yield f"judge: {verdict(finite(sample.get('win_reference')), 'the reference')}"
    yield verdict(finite(sample.get("win_chosen")), "the chosen response")
    agreed = finite(sample.get("judge_agreed"))
    if agreed is not None and agreed < 1:
        yield "the orders disagree"


def verdict(share: float | None, whom: str) -> str:
    """A share of the opponents that a response beats, in words.

    >>> verdict(1.0, "the reference"), verdict(0.75, "the reference")
    ('beats the reference', 'wins 75% against the reference')
    >>> verdict(None, "the reference")
    'no verdict against the reference'
    """
    if share is None:
        return f"no verdict against {whom}"
    if share in _VERBS:
        return f"{_VERBS[share]} {whom}"
    return f"wins {100 * share:.0f}% against {whom}"
