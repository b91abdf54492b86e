"""Whether implicit rewards say how sure one may be: sigmoid(beta margin) on held-out pairs.

DPO's implicit reward is beta times the log-ratio, and under Bradley-Terry the chosen response wins
with probability sigmoid(beta margin) (Rafailov et al. 2023, arXiv:2305.18290, section 4). So this
is computed for losses of the summed log-ratios whose strength is called beta, and missing for all
others: a loss of log-probs per token, or without a reference, has no such probability. For losses
that are not logistic the reading as a probability is ours, not theirs.

Both responses' probabilities are looked at, so each pair counts once, with confidence
max(p, 1 - p), and is right when its margin is positive, half right when it is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpo_bench.analysis.bootstrap import Array, bootstrap, cluster_means
from dpo_bench.analysis.estimate import Estimate

if TYPE_CHECKING:
    from dpo_bench.contract import Loss
    from dpo_bench.experiment import PlannedTrial

BINS = 10
"""Equal bins of the confidence between .5 and 1."""


def implicit_scale(loss: Loss, trial: PlannedTrial) -> float | None:
    """The beta of a trial's implicit reward; None when its loss has none."""
    if loss.strength == "beta" and loss.needs_reference and loss.normalization == "sum":
        return trial.strength
    return None


def win_probabilities(margins: ArrayLike, scale: float) -> Array:
    """sigmoid(scale margin) without overflow, shape of ``margins``.

    >>> win_probabilities([0.0, 1e6], 0.1).tolist()
    [0.5, 1.0]
    """
    from scipy.special import expit

    return np.asarray(expit(scale * np.asarray(margins, dtype=np.float64)))


def calibration(
    margins: ArrayLike, scale: float, prompt_of_pair: ArrayLike, weights: Array
) -> dict[str, Estimate]:
    """``brier``: mean (1 - p)^2, .25 for a coin; ``calibration_error``: expected, over `BINS` bins.

    The calibration error is the mean over bins of |accuracy - confidence|, weighted by the bins'
    pairs (Guo et al. 2017, arXiv:1706.04599). It is never negative, so with few pairs it is too
    high, about 1/sqrt(pairs in a bin), and its interval with it.

    Args:
        margins: chosen minus rejected log-ratio of each held-out pair, nats, [pair].
        scale: beta.
        prompt_of_pair: the prompt of each pair, [pair].
        weights: [resamples, prompts] from `statistics.resample_weights`.
    """
    sure, right, place = _confidence(margins, scale)
    brier = (1 - win_probabilities(margins, scale)) ** 2
    excess = np.zeros((len(sure), BINS))
    excess[np.arange(len(sure)), place] = right - sure
    columns = np.column_stack(
        [cluster_means(column, prompt_of_pair) for column in (brier, *excess.T)]
    )
    return {
        "brier": bootstrap(lambda means: means[:, 0], columns, weights),
        "calibration_error": bootstrap(
            lambda means: np.abs(means[:, 1:]).sum(axis=1), columns, weights
        ),
    }


def reliability(margins: ArrayLike, scale: float) -> list[dict[str, Any]]:
    """The bins that hold a pair: mean confidence, accuracy and number of pairs of each."""
    sure, right, place = _confidence(margins, scale)
    return [
        {
            "confidence": float(sure[place == index].mean()),
            "accuracy": float(right[place == index].mean()),
            "n": int((place == index).sum()),
        }
        for index in range(BINS)
        if (place == index).any()
    ]


def _confidence(margins: ArrayLike, scale: float) -> tuple[Array, Array, NDArray[np.intp]]:
    """Confidence, rightness and bin of each pair."""
    values = np.asarray(margins, dtype=np.float64)
    chance = win_probabilities(values, scale)
    sure = np.maximum(chance, 1 - chance)
    right = (values > 0) + 0.5 * (values == 0)
    place = np.minimum(((sure - 0.5) * 2 * BINS).astype(np.intp), BINS - 1)
    return sure, right, place
