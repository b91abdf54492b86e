"""What curves are made of and what intervals hold: said once, for setup, methods and appendix."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_bench.analysis.curves import NEAR
from dpo_bench.experiment import Experiment
from dpo_bench.wording import counted, plain_number

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
        " over-optimization) hold the spread over prompts and over seeds."
    )


def curve_points(checkpoints: int, experiment: Experiment | None) -> str:
    """What the points of a loss's curve are and how it goes through them, in sentences.

    Args:
        checkpoints: how many points were measured along training.
        experiment: where it is known.
    """
    if not checkpoints:
        return f"A loss's curve goes through its policies, one for each strength: {_through()}"
    every = experiment.evaluation.every if experiment else 0
    step = f"after {counted(every, 'step')} and its multiples" if every else "along training"
    return (
        f"Policies were measured after training and {step}, and those of one number of steps make"
        f" one curve of a loss, with a point for each strength: {_through()} What is read at a KL"
        " is the mean over the curves of all steps at which every compared loss covers that KL, the"
        " same steps for each: policies of different steps are not joined (as they are where"
        " figures of papers, the DPO paper's among them, show all checkpoints together), because"
        " half-way through a learning-rate schedule a policy reaches less at the same KL than at"
        " its end. Points of one run are alike; prompts and whole runs (seeds), never single"
        " points, are what intervals take as independent."
    )


def _through() -> str:
    return (
        f"points whose roots of the KL differ by at most {plain_number(NEAR)} are averaged, and"
        " between neighbors it is straight in the root of the KL."
    )
