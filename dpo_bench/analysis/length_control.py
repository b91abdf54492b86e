"""Win rate at equal length, and the raw one beside it.

Judges and rewards often like length. The length-controlled win rate (Dubois et al. 2024,
arXiv:2404.04475) explains the preferences by a logistic regression and asks what it predicts with
the length term at zero:

    logit P(win) = theta + phi tanh((length - opponent's length) / standard deviation of these)

The published model has a further term for how hard each instruction is, whose coefficients are
fitted over a public leaderboard; there is none here. What is computed is therefore the "tanh +
constant" model, named `LABEL`, and no AlpacaEval figure.

The fit is by maximum likelihood, shares of wins counted as wins in proportion, with one further
prompt, a tie, half of it at each length (tanh ± .76). It keeps the fit finite where one side wins
always, or wins whenever it is longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array, bootstrap_weighted
from dpo_bench.analysis.estimate import Estimate

LABEL = "length-controlled win rate (tanh + constant)"

_STEPS = 60
_TIE = float(np.tanh(1.0))
_AT_ONCE = 2**20
"""comparisons, over all resamples, that are held in memory together: 8 MB a table"""


@dataclass(frozen=True)
class LengthControlled:
    """Win rates with and without the length term.

    Attributes:
        controlled: the win rate at equal length, with a 95% interval over prompts.
        raw: the plain one.
        length_effect: phi, log-odds for a response that is much longer; 0 when length is no matter.
        extra_length: mean of the length difference, in the unit of the lengths (tokens).
    """

    controlled: Estimate
    raw: Estimate
    length_effect: Estimate
    extra_length: Estimate


def length_controlled(
    wins: ArrayLike, length_differences: ArrayLike, weights: Array
) -> LengthControlled:
    """Fit the model to a policy's comparisons with an opponent.

    Args:
        wins: [prompts, m], share with which each response beat its opponents, ties a half.
        length_differences: [prompts, m], its length minus its opponents' (mean) length, tokens.
        weights: [resamples, prompts] from `statistics.resample_weights`.

    Raises:
        ValueError: the shapes differ, a value is missing, or a share is outside 0 to 1.
    """
    won, longer = (np.asarray(one, dtype=np.float64) for one in (wins, length_differences))
    if won.shape != longer.shape or won.ndim != 2 or len(won) != weights.shape[1] or not won.size:
        raise ValueError(
            f"wins {list(won.shape)} and length differences {list(longer.shape)} must both be"
            f" [{weights.shape[1]} prompts, m]"
        )
    if not ((won >= 0) & (won <= 1)).all() or not np.isfinite(longer).all():
        raise ValueError("a share of wins or a length difference is missing or out of range")

    everyone = np.full((1, len(won)), 1 / len(won))
    start = _fitted(won, longer, everyone, np.zeros((2, 1)))
    size = max(1, _AT_ONCE // won.size)

    def fit(rows: Array) -> Array:
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
        theta, phi = np.concatenate([_fitted(won, longer, part, start) for part in parts], axis=1)
        raw = np.einsum("bp,p->b", rows, won.mean(axis=1))
        extra = np.einsum("bp,p->b", rows, longer.mean(axis=1))
        return np.stack([1 / (1 + np.exp(-theta)), raw, phi, extra], axis=1)

    return LengthControlled(*bootstrap_weighted(fit, weights))


def _fitted(won: Array, longer: Array, rows: Array, start: Array) -> Array:
    """Theta and phi [2, rows] of each row of weights [rows, prompts], by Newton's method.

    The likelihood is concave; a step that would be longer than one log-odds is shortened.
    """
    prompts, each = won.shape
    mean = np.einsum("bp,p->b", rows, longer.mean(axis=1))
    square = np.einsum("bp,p->b", rows, (longer**2).mean(axis=1))
    deviation = np.sqrt(np.maximum(square - mean**2, 0))[:, None]
    scaled = np.divide(
        longer.ravel(), deviation, out=np.zeros((len(rows), longer.size)), where=deviation > 0
    )
    ends = np.tile([-_TIE, _TIE], (len(rows), 1))
    x = np.concatenate([np.tanh(scaled), ends], axis=1)
    y = np.append(won.ravel(), [0.5, 0.5])
    counts = np.repeat(rows * prompts / each, each, axis=1)
    counts = np.concatenate([counts, np.full((len(rows), 2), 0.5)], axis=1)
    theta, phi = np.repeat(start, len(rows), axis=1)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-(theta[:, None] + phi[:, None] * x)))
        miss, curve = counts * (y - chance), counts * chance * (1 - chance)
        tilted = curve * x
        bend = [curve.sum(axis=1), tilted.sum(axis=1), (tilted * x).sum(axis=1)]
        slope = [miss.sum(axis=1), (miss * x).sum(axis=1)]
        determinant = bend[0] * bend[2] - bend[1] ** 2
        steps = np.stack(
            [
                (bend[2] * slope[0] - bend[1] * slope[1]) / determinant,
                (bend[0] * slope[1] - bend[1] * slope[0]) / determinant,
            ]
        )
        longest = np.abs(steps).max(axis=0)
        theta, phi = np.stack([theta, phi]) + steps / np.maximum(longest, 1)
        if longest.max() < 1e-10:
            break
    return np.stack([theta, phi])
