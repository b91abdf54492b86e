"""What judging took, and when a judge is no judge."""

from __future__ import annotations

JUDGE_COSTS = ("requests", "failures", "input_tokens", "output_tokens")
"""Of the trial's own judging, whether asked now or known from the cache."""
LEAST_AGREEMENT = 0.6
"""Share of pairs on which both orders of a judge must agree; one that guesses agrees on half."""


def dollars(
    input_tokens: float | None,
    output_tokens: float | None,
    prices: tuple[float | None, float | None],
) -> float | None:
    """What so many tokens cost, US dollars; None where a count or a price is not known.

    >>> dollars(2_000_000, 100_000, (0.15, 0.6))
    0.36

    Args:
        input_tokens: that the judge reads.
        output_tokens: that it writes.
        prices: of a million tokens each, ``evaluation.judge_price_input`` and ``_output``.
    """
    price_input, price_output = prices
    if input_tokens is None or output_tokens is None or price_input is None or price_output is None:
        return None
    return round((input_tokens * price_input + output_tokens * price_output) / 1e6, 6)
