"""What the intervals hold: said in one place, for setup, methods and appendix alike."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_bench.report.text import counted

FAMILY = "Holm's correction over all pairs at all compared KLs"
"""the family of comparisons within which losses are called separated"""


def held_by_intervals(seeds: Sequence[int]) -> str:
    """Which spread the intervals hold, prompts or prompts and seeds, in sentences.

    Args:
        seeds: the training seeds that occur.
    """
    if len(seeds) < 2:
        return (
            "There is one training seed: the variance between seeds is unknown, and no interval"
            " holds it."
        )
    return (
        "Intervals of a single trial are over prompts and do not hold the spread over training"
        f" seeds. Those of what is read off a loss's curve over {counted(len(seeds), 'seed')}"
        " (rewards and differences at matched KL, areas between curves, fits of"
        " over-optimisation) hold the spread over prompts and over seeds."
    )
