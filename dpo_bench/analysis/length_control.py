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
from numpy.typing import ArrayLike, NDArray

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


def length_controlled_leaderboard(
    preference: ArrayLike, length_difference: ArrayLike
) -> NDArray[np.float64]:
    """Length-controlled win rates of many models that faced one opponent, as AlpacaEval 2 has them.

    Dubois et al. 2024 (arXiv:2404.04475, eq. 2) explain a preference by the model, the length and
    how hard the instruction is:

        logit P(win) = theta_m + phi_m tanh(length difference / its deviation) + psi_m gamma_x

    gamma, the difficulty of each instruction, is fitted over all models together with psi = 1, and
    then held while theta, phi and psi are fitted model by model. The win rate is the mean of what
    this predicts with the length term at 0. Every coefficient but theta has a standard normal prior
    (a ridge of 1). The published figures come from a difficulty fitted over the leaderboard of the
    time and from another ridge (rows of two variants of the opponent), so that they are met
    closely, not exactly.

    Args:
        preference: [model, instruction], probability that the model's output beats the opponent's,
            NaN where it is missing.
        length_difference: [model, instruction], the model's length minus the opponent's; of any
            unit.

    Returns:
        [model], percent; 50 for a model whose outputs are the opponent's own.

    Raises:
        ValueError: the shapes differ, a preference is outside 0 to 1, a length is missing, or a
            model has no preference at all.
    """
    won, longer = (np.asarray(one, dtype=np.float64) for one in (preference, length_difference))
    if won.shape != longer.shape or won.ndim != 2 or not won.size:
        raise ValueError(
            f"preference {list(won.shape)} and length_difference {list(longer.shape)} must both be"
            " [model, instruction]"
        )
    known = ~np.isnan(won)
    if not ((won[known] >= 0) & (won[known] <= 1)).all() or not np.isfinite(longer).all():
        raise ValueError("a preference is outside 0 to 1, or a length difference is missing")
    if not known.any(axis=1).all():
        raise ValueError("a model has no preference at all")
    scaled = np.stack([_tanh_of_length(row, mask) for row, mask in zip(longer, known, strict=True)])
    # Outputs that are the opponent's own say nothing of how hard an instruction is.
    own = np.array([(won[row][known[row]] == 0.5).all() for row in range(len(won))])
    difficulty = np.zeros(won.shape[1])
    if not own.all():
        difficulty = _difficulty(won[~own], scaled[~own], known[~own])
    return np.array(
        [
            50.0
            if own[row]
            else 100 * _at_equal_length(won[row], scaled[row], known[row], difficulty)
            for row in range(len(won))
        ]
    )


def _tanh_of_length(difference: Array, known: NDArray[np.bool_]) -> Array:
    """Tanh of the length difference over its deviation; 0 where all are alike."""
    deviation = difference[known].std(ddof=1) if known.sum() > 1 else 0.0
    return np.tanh(difference / deviation) if deviation > 0 else np.zeros_like(difference)


def _difficulty(won: Array, scaled: Array, known: NDArray[np.bool_]) -> Array:
    """Gamma [instruction], the same for all models, by penalized maximum likelihood."""
    from scipy.optimize import minimize
    from scipy.special import expit

    models, wins = len(won), np.where(known, won, 0.0)

    def loss(values: Array) -> tuple[float, Array]:
        theta, phi, gamma = np.split(values, [models, 2 * models])
        logit = theta[:, None] + phi[:, None] * scaled + gamma
        miss = known * (expit(logit) - wins)
        ridge = 0.5 * (phi @ phi + gamma @ gamma)
        slope = [miss.sum(axis=1), (miss * scaled).sum(axis=1) + phi, miss.sum(axis=0) + gamma]
        total = (known * (np.logaddexp(0, logit) - wins * logit)).sum() + ridge
        return float(total), np.concatenate(slope)

    start = np.zeros(2 * models + won.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return np.asarray(found.x[2 * models :])


def _at_equal_length(
    won: Array, scaled: Array, known: NDArray[np.bool_], difficulty: Array
) -> float:
    """A model's mean predicted preference with the length term at 0, over all instructions."""
    from scipy.special import expit

    design = np.column_stack([scaled, difficulty, np.ones_like(scaled)])[known]
    wins, ridge, coefficients = won[known], np.array([1.0, 1.0, 1e-6]), np.zeros(3)
    for _ in range(_STEPS):
        chance = expit(design @ coefficients)
        bend = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(bend, design.T @ (wins - chance) - ridge * coefficients)
        coefficients = coefficients + step / max(np.abs(step).max(), 1.0)
        if np.abs(step).max() < 1e-10:
            break
    _, psi, theta = coefficients
    return float(expit(theta + psi * difficulty).mean())
