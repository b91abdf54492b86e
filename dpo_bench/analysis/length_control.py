"""Win rate at equal length, and the raw one beside it.

Judges and rewards often like length. The length-controlled win rate of AlpacaEval 2 (Dubois et al.
2024, arXiv:2404.04475, eq. 2) explains every comparison with an opponent by the player, the lengths
and how hard the prompt is, and asks what this predicts with the length term at zero:

    logit P(win) = theta + phi tanh(length difference / its deviation) + psi gamma(prompt)

It is fitted in two stages. Over all players who face the opponent: a theta each, one phi, and the
difficulties gamma with a normal prior whose variance is estimated along (`prompt_difficulty`). Then
player by player: theta, phi and psi, with the difficulties held. Left alone, the last stage swings
wherever lengths hardly vary. The published one adds comparisons of the opponent with variants of
itself, .2 of a comparison for each prompt, which pull phi and psi to those of the variants. Nobody
has such variants of a sweep's opponents, so that phi and psi are pulled as strongly (`RIDGE`) to
what the first stage found for all players: its phi, and a psi of 1.

Fits are by maximum likelihood, shares of wins counted as wins in proportion and every prompt
once, however many responses it has. One further prompt, a tie of middle difficulty, half of it
at each length (tanh ± .76), keeps them finite where one side wins always, or wins whenever it is
longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpo_bench.analysis.bootstrap import Array, bootstrap_weighted
from dpo_bench.analysis.estimate import Estimate

RIDGE = 0.2
"""of a comparison at even odds for each prompt: what pulls a player's phi and psi to all players'.
The published model's `regularize_to_baseline_lambda` (tatsu-lab/alpaca_eval, glm_winrate.py)."""

MANY = 4
"""players that can tell how noisy an outcome is: fewer confuse that with how hard prompts are"""

_LEAST = 0.01
"""dispersion: of the mean of a hundred comparisons; outcomes without any scatter have none"""
_STEPS = 200
_TIE = float(np.tanh(1.0))
_CELLS = 8
"""cells of a prompt's comparisons: of width .25 of the hyperbolic tangent"""
_AT_ONCE = 2**20
"""cells, over all resamples, that are held in memory together: 8 MB a table"""


@dataclass(frozen=True)
class Difficulty:
    """What all who face one opponent share.

    Attributes:
        values: [prompt], log-odds that a prompt adds to everyone's chance to win, about 0.
        spread: the estimated standard deviation of the difficulties.
        length_effect: phi of all players together.
        sway: [prompt], what each prompt moved this phi by; about the sum that is 0.
        players: how many there were. A single one cannot tell a hard prompt from its own bad luck:
            then every difficulty is 0, and nothing is pulled anywhere.
    """

    values: Array
    spread: float
    length_effect: float
    sway: Array
    players: int

    @classmethod
    def unknown(cls, prompts: int) -> Difficulty:
        """Of a player who is alone."""
        return cls(np.zeros(prompts), 0.0, 0.0, np.zeros(prompts), 1)


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


def prompt_difficulty(won: ArrayLike, longer: ArrayLike) -> Difficulty:
    """How hard each prompt is, from all players who faced one opponent.

    Outcomes that are means of several comparisons scatter less than single wins: by how much is
    estimated along with the rest (a quasi-likelihood). Fewer than `MANY` players cannot tell that
    from difficulty; theirs are taken for single wins, so that they pull what they find to 0.

    Args:
        won: [player, prompt], share of the opponent's responses beaten; NaN where it is missing.
        longer: [player, prompt], mean over the prompt's comparisons of `length_term`.

    Returns:
        A normal prior's modes, by Newton's method on all coefficients together; between two steps
        the prior's variance is set to what the modes and their uncertainty give (an EM step).
    """
    wins, terms = (np.asarray(one, dtype=np.float64) for one in (won, longer))
    players, prompts = wins.shape
    if players == 1:
        return Difficulty.unknown(prompts)
    ends = np.tile([-_TIE, _TIE], (players, 1))
    known = np.hstack([~np.isnan(wins), np.full((players, 2), 0.5)])
    wins = np.hstack([np.nan_to_num(wins), np.full((players, 2), 0.5)])
    terms = np.hstack([terms, ends])
    free = np.arange(prompts + 2) < prompts  # the tie's difficulty stays 0
    theta, phi, gamma = np.zeros(players), 0.0, np.zeros(prompts + 2)
    variance, dispersion = 1.0, 1.0
    for _ in range(_STEPS):
        chance = _expit(theta[:, None] + phi * terms + gamma)
        even = chance * (1 - chance)
        miss, curve = known * (wins - chance) / dispersion, known * even / dispersion
        precision = np.where(free, curve.sum(axis=0) + 1 / variance, np.inf)
        step, hardness = _joint_step(miss, curve, terms, gamma / variance, precision)
        longest = max(np.abs(step).max(), np.abs(hardness).max())
        scale = 1 / max(longest, 1.0)
        theta, phi = theta + scale * step[:-1], phi + scale * float(step[-1])
        gamma = gamma + scale * hardness
        before = np.array([variance, dispersion])
        variance = float((gamma**2 + 1 / precision)[free].mean())
        if players >= MANY:
            left = known.sum() - players - 1 - (curve.sum(axis=0) / precision).sum()
            pearson = (known * (wins - chance) ** 2 / np.maximum(even, 1e-6)).sum()
            dispersion = float(np.clip(pearson / left, _LEAST, 1.0))
        if longest < 1e-8 and np.abs(np.array([variance, dispersion]) / before - 1).max() < 1e-5:
            break
    sway = _sway(miss, curve, terms, precision)[free]
    return Difficulty(gamma[free], variance**0.5, phi, sway, players)


def _joint_step(
    miss: Array, curve: Array, terms: Array, pull: Array, precision: Array
) -> tuple[Array, Array]:
    """A Newton step of the thetas with phi [player + 1], and of the difficulties [prompt].

    Difficulties meet only through the others: they are eliminated, and solved for last.
    """
    cross, bend = _bend(curve, terms)
    slope = np.append(miss.sum(axis=1), (miss * terms).sum())
    hardness = miss.sum(axis=0) - pull
    shared = cross / precision
    step = np.linalg.solve(bend - shared @ cross.T, slope - shared @ hardness)
    return step, (hardness - cross.T @ step) / precision


def _bend(curve: Array, terms: Array) -> tuple[Array, Array]:
    """Second derivatives of thetas and phi, with the difficulties and among themselves."""
    tilted = curve * terms
    cross = np.vstack([curve, tilted.sum(axis=0)])
    bend = np.diag(np.append(curve.sum(axis=1), (tilted * terms).sum()))
    bend[-1, :-1] = bend[:-1, -1] = tilted.sum(axis=1)
    return cross, bend


def _sway(miss: Array, curve: Array, terms: Array, precision: Array) -> Array:
    """What each prompt [prompt] has moved phi by: the solution's response to its weight."""
    cross, bend = _bend(curve, terms)
    scores = np.vstack([miss, (miss * terms).sum(axis=0)])
    return np.asarray(np.linalg.solve(bend - (cross / precision) @ cross.T, scores)[-1])


def length_term(longer: ArrayLike, known: ArrayLike) -> Array:
    """Tanh of length differences over their deviation, of the same shape; 0 where all are alike.

    Args:
        longer: the player's length minus its opponent's, of any unit.
        known: which comparisons count for the deviation.
    """
    differences = np.asarray(longer, dtype=np.float64)
    counted = differences[np.asarray(known, dtype=bool)]
    deviation = counted.std(ddof=1) if counted.size > 1 else 0.0
    return np.tanh(differences / deviation) if deviation > 0 else np.zeros_like(differences)


def length_controlled(
    wins: ArrayLike,
    length_differences: ArrayLike,
    weights: Array,
    difficulty: Difficulty | None = None,
) -> LengthControlled:
    """Fit the model to a policy's comparisons with an opponent.

    The difficulties are a prompt's own, and go with it into the resamples; the phi of all players
    moves with them by what each prompt contributed to it.

    Args:
        wins: [prompts, m], outcome of each comparison, ties a half; NaN where it is missing.
        length_differences: [prompts, m], the response's length minus that of the one it met, in
            one unit.
        weights: [resamples, prompts] from `resample_weights`.
        difficulty: of these prompts against this opponent; None where the policy is alone.

    Raises:
        ValueError: the shapes differ, an outcome is outside 0 to 1, a length is missing, or there
            is no outcome at all.
    """
    won, longer = (np.asarray(one, dtype=np.float64) for one in (wins, length_differences))
    if won.shape != longer.shape or won.ndim != 2 or len(won) != weights.shape[1] or not won.size:
        raise ValueError(
            f"wins {list(won.shape)} and length differences {list(longer.shape)} must both be"
            f" [{weights.shape[1]} prompts, m]"
        )
    known = _checked(won, longer)
    if not known.any():
        raise ValueError("no comparison has an outcome")
    model = _Player.of(won, longer, difficulty or Difficulty.unknown(len(won)))
    everyone = np.full((1, len(won)), 1 / len(won))
    start = model.fit(everyone, model.center[:, None])
    answered = known.any(axis=1).astype(np.float64)
    plain, extra = (_mean_known(one, known) for one in (won, longer))
    size = max(1, _AT_ONCE // len(model.won))

    def fit(rows: Array) -> Array:
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
        found = np.concatenate([model.fit(part, start) for part in parts], axis=1)
        counted = np.einsum("bp,p->b", rows, answered)
        # of very few answered prompts a resample may draw none: it has nothing to say of them
        drawn = np.where((counted > 0)[:, None], rows, everyone)
        counted = np.where(counted > 0, counted, answered.mean())
        raw, lengths = (np.einsum("bp,p->b", drawn, one) / counted for one in (plain, extra))
        return np.stack([model.at_equal_length(found, rows), raw, found[1], lengths], axis=1)

    return LengthControlled(*bootstrap_weighted(fit, weights))


def _checked(won: Array, longer: Array) -> NDArray[np.bool_]:
    """Which outcomes are known.

    Raises:
        ValueError: an outcome is outside 0 to 1, or a length is missing.
    """
    known = ~np.isnan(won)
    if not ((won[known] >= 0) & (won[known] <= 1)).all() or not np.isfinite(longer).all():
        raise ValueError("a preference is outside 0 to 1, or a length difference is missing")
    return known


def _mean_known(values: Array, known: NDArray[np.bool_]) -> Array:
    """Mean of each row's known values; 0 where none is."""
    total, count = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.zeros(len(values)), where=count > 0))


def _expit(logit: Array) -> Array:
    from scipy.special import expit

    return np.asarray(expit(logit))


@dataclass(frozen=True)
class _Player:
    """One player's comparisons, with the tie as a last prompt of weight 1.

    A prompt's comparisons of almost the same length difference are one cell with their mean
    outcome: hundreds of comparisons with a reference's responses become a handful.

    Attributes:
        design: [cell, 3], that is 1, the length term and the difficulty.
        won: [cell], mean outcome.
        prompt: [cell], which prompt it is of; the last one is the tie.
        share: [cell], what it is of its prompt.
        difficulty: [prompt], without the tie's.
        sway: [prompt], what each prompt moved the phi of all players by.
        center: what theta, phi and psi are pulled to.
        ridge: how strongly.
    """

    design: Array
    won: Array
    prompt: NDArray[np.intp]
    share: Array
    difficulty: Array
    sway: Array
    center: Array
    ridge: Array

    @classmethod
    def of(cls, won: Array, longer: Array, difficulty: Difficulty) -> _Player:
        """Of outcomes [prompts, m], NaN where missing, and length differences."""
        known = ~np.isnan(won)
        every = length_term(longer, known)[known]
        of_prompt, counts = np.nonzero(known)[0], known.sum(axis=1)
        bins = np.floor((every + 1) / 2 * _CELLS)
        cells, place, size = np.unique(
            of_prompt * (_CELLS + 1) + bins, return_inverse=True, return_counts=True
        )
        prompt = (cells // (_CELLS + 1)).astype(np.intp)
        terms, wins = (np.bincount(place, one) / size for one in (every, won[known]))
        share, hardness = size / counts[prompt], difficulty.values[prompt]
        strength = RIDGE / 4 * (difficulty.players > 1)
        pulls = (strength * (share * one**2).sum() for one in (terms, hardness))
        design = np.column_stack([np.ones_like(terms), terms, hardness])
        return cls(
            np.vstack([design, [[1.0, -_TIE, 0.0], [1.0, _TIE, 0.0]]]),
            np.append(wins, [0.5, 0.5]),
            np.append(prompt, [len(won), len(won)]),
            np.append(share, [0.5, 0.5]),
            difficulty.values,
            difficulty.sway,
            np.array([0.0, difficulty.length_effect, 1.0]),
            np.array([0.0, *pulls]),
        )

    def fit(self, rows: Array, start: Array) -> Array:
        """Theta, phi and psi [3, rows] under each row of weights [rows, prompts].

        By Newton's method: the likelihood is concave; a step that would be longer than one log-odds
        is shortened. It ends where what is left moves no win rate by 1e-6.
        """
        drawn = rows * rows.shape[1]
        scaled = np.column_stack([drawn, np.ones(len(rows))])
        center = np.tile(self.center, (len(rows), 1))
        center[:, 1] += np.einsum("rp,p->r", drawn - 1, self.sway)
        counts = scaled[:, self.prompt] * self.share
        found = np.repeat(start, len(rows) // start.shape[1], axis=1)
        # psi does not matter where all difficulties are 0, and must not make the system singular
        ridge = np.where(np.abs(self.design).any(axis=0), self.ridge, 1.0)
        pairs = self.design[:, [0, 0, 0, 1, 1, 2]] * self.design[:, [0, 1, 2, 1, 2, 2]]
        places = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
        for _ in range(_STEPS):
            chance = _expit(np.einsum("cr,kc->rk", found, self.design))
            slope = np.einsum("rk,kc->rc", counts * (self.won - chance), self.design)
            slope -= ridge * (found.T - center)
            bend = np.einsum("rk,ke->re", counts * chance * (1 - chance), pairs)[:, places]
            step = np.linalg.solve(bend + np.diag(ridge), slope[:, :, None])[:, :, 0].T
            longest = np.abs(step).max(axis=0)
            found = found + step / np.maximum(longest, 1)
            if longest.max() < 1e-4:
                break
        return found

    def at_equal_length(self, found: Array, rows: Array) -> Array:
        """Mean predicted win rate [rows] with the length term at 0, over the rows' prompts."""
        chance = _expit(found[0][:, None] + found[2][:, None] * self.difficulty)
        return np.asarray(np.einsum("rp,rp->r", rows, chance))


def length_controlled_leaderboard(
    preference: ArrayLike, length_difference: ArrayLike
) -> NDArray[np.float64]:
    """Length-controlled win rates of many models that faced one opponent, as AlpacaEval 2 has them.

    The published figures come from difficulties fitted over the leaderboard of the time and from
    annotations of two variants of the opponent, so that they are met closely, not exactly.

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
    known = _checked(won, longer)
    if not known.any(axis=1).all():
        raise ValueError("a model has no preference at all")
    # Outputs that are the opponent's own say nothing of how hard an instruction is.
    own = np.array([(row[mask] == 0.5).all() for row, mask in zip(won, known, strict=True)])
    figures = np.full(len(won), 50.0)
    if own.all():
        return figures
    terms = [length_term(*one) for one in zip(longer[~own], known[~own], strict=True)]
    difficulty = prompt_difficulty(won[~own], np.stack(terms))
    for place in np.flatnonzero(~own):
        model = _Player.of(won[place][:, None], longer[place][:, None], difficulty)
        everyone = np.full((1, won.shape[1]), 1 / won.shape[1])
        found = model.fit(everyone, model.center[:, None])
        figures[place] = 100 * model.at_equal_length(found, everyone)[0]
    return figures
