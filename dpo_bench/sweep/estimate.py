"""How long a trial may take, worked out before anything is trained."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from dpo_bench.experiment import Experiment
from dpo_bench.threads import one_thread
from dpo_bench.training.trainer import number_of_steps

SECONDS_PER_PASS = 0.004
"""What a forward or backward pass costs on a CPU however small the model is."""
EFFICIENCY = 0.5
"""Share of a plain matrix product's speed that a whole pass reaches."""


@dataclass(frozen=True, slots=True)
class Size:
    """What the time depends on.

    Attributes:
        parameters: of the model.
        prompt: mean tokens of a prompt.
        response: mean tokens of a response.
        pairs: training pairs.
        prompts: evaluation prompts.
    """

    parameters: int
    prompt: float
    response: float
    pairs: int
    prompts: int


def evaluations(experiment: Experiment, pairs: int | None) -> int | None:
    """How often a trial is evaluated; None where that depends on an unknown number of pairs."""
    training, every = experiment.training, experiment.evaluation.every
    if not every:
        return 1
    if pairs is None and training.steps is None:
        return None
    return 1 + (number_of_steps(training, pairs or 0) - 1) // every


def estimate(experiment: Experiment, size: Size, speed: float) -> float:
    """Seconds of one trial on one CPU core.

    Args:
        experiment: the configuration.
        size: of model and data.
        speed: of a matrix product, floating-point operations per second.
    """
    training, evaluation = experiment.training, experiment.evaluation
    # A pass forward costs 2 operations per parameter and token; training adds 4 backward. Frozen
    # weights need 2 of them, but an adapter has passes of its own: see docs/lora.md for both.
    passes = 2.6 if training.lora else 3
    cost = 2 * size.parameters / (EFFICIENCY * speed)
    pair_tokens = 2 * (size.prompt + size.response)
    step = passes * cost * pair_tokens * training.pairs_per_step + 4 * SECONDS_PER_PASS
    responses = size.prompts * evaluation.samples_per_prompt
    # The longest response of a batch sets its number of passes: nearly always the limit.
    batches = math.ceil(responses / evaluation.rows_per_batch)
    sampling = cost * responses * (size.prompt + size.response)
    sampling += batches * evaluation.max_new_tokens * SECONDS_PER_PASS
    scoring = 2 * cost * responses * (size.prompt + size.response)
    heldout = cost * size.prompts * pair_tokens
    steps = number_of_steps(training, size.pairs)
    times = evaluations(experiment, size.pairs) or 1
    return steps * step + times * (sampling + scoring + heldout)


def matrix_speed() -> float:
    """Floating-point operations per second of one core in a small matrix product."""
    import torch

    left, right = torch.rand(512, 64), torch.rand(64, 512)
    rounds = 200
    with one_thread():
        torch.mm(left, right)
        started = time.perf_counter()
        for _ in range(rounds):
            torch.mm(left, right)
        spent = time.perf_counter() - started
    return rounds * 2 * 512 * 64 * 512 / spent


def in_words(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
