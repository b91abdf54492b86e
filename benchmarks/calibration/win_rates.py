"""Win rates from .02 to .98: do their intervals hold the truth?

A prompt's chance to win is drawn from a beta distribution whose mean is the win rate, and each of
its responses wins with that chance: prompts differ, and responses to one prompt are alike. The
truth is the mean that was put in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.calibration.rows import Row, coverage, holds
from dpo_bench.analysis.bootstrap import bootstrap_mean, resample_weights
from dpo_bench.analysis.win_rates import win_rate

RATES = (0.02, 0.05, 0.5, 0.95, 0.98)
PROMPTS = (32, 128, 1024)
RESPONSES = (1, 2, 4)
CONCENTRATION = 2.0
"""Sum of the parameters of the beta distribution: responses to one prompt correlate by 1/3."""
RESAMPLES = 600


def win_rates_near_the_ends(
    rate: float,
    prompts: int,
    responses: int,
    simulations: int,
    concentration: float = CONCENTRATION,
) -> Row:
    """The win rate of so many responses to each of so many prompts, which differ.

    Near the ends the discreteness of wins makes intervals hold more often than 95%: at least 93% is
    accepted there, and 93 to 97% at .5. Beside it what the bootstrap alone would hold.
    """
    generator = np.random.default_rng([round(1000 * rate), prompts, responses])
    held, plain = [], []
    for seed in range(simulations):
        chance = generator.beta(concentration * rate, concentration * (1 - rate), prompts)
        won = generator.binomial(responses, chance) / responses
        weights = resample_weights(prompts, RESAMPLES, seed // 10)
        held.append(holds(win_rate(won, weights), rate))
        plain.append(holds(bootstrap_mean(won, weights), rate))
    setting = f"{rate:g}, {prompts:,} prompts x {responses} response{'s' * (responses > 1)}"
    row = coverage("win rate of", setting, held, plain)
    return row if rate == 0.5 else replace(row, high=1.0)


def win_rate_rows(simulations: int) -> Iterator[Row]:
    """All rates, numbers of prompts and of responses."""
    for rate in RATES:
        for prompts in PROMPTS:
            for responses in RESPONSES:
                yield win_rates_near_the_ends(rate, prompts, responses, simulations)
