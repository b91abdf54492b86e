"""Scores of responses, and the choice of the better one of two.

The gold reward is VADER's compound score (Hutto and Gilbert, ICWSM 2014), a number in [-1, 1] that
knows negation, degree adverbs and "but". The proxies are misspecified on purpose: a bag of words
knows none of these, and length has next to nothing to do with the gold reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dpo_bench.experiment.config import World
from dpo_bench.vader import gold_scores
from dpo_bench.worlds.cache import stream_seed
from dpo_bench.worlds.grammar import split
from dpo_bench.worlds.words import POLARITY, PUNCTUATION


def bag_of_words_scores(responses: Sequence[str]) -> list[float]:
    """Number of praising words minus number of blaming words, whatever stands around them.

    >>> bag_of_words_scores([" the plot was great.", " the plot was not great."])
    [1.0, 1.0]
    """
    return [
        float(sum(POLARITY.get(token, 0) for token in split(response))) for response in responses
    ]


def length_scores(responses: Sequence[str]) -> list[float]:
    """Number of words.

    >>> length_scores([" the plot was great, but the songs were dull."])
    [9.0]
    """
    return [
        float(sum(token not in PUNCTUATION for token in split(response))) for response in responses
    ]


Score = Callable[[Sequence[str]], list[float]]

SCORES: Mapping[str, Score] = {
    "gold": gold_scores,
    "bag_of_words": bag_of_words_scores,
    "length": length_scores,
}
"""What may label the pairs, by its name in the experiment file."""


def first_wins(
    first: Sequence[str], second: Sequence[str], options: World, yardstick: Sequence[str]
) -> NDArray[np.bool_]:
    """Tell for each pair whether its first response is the chosen one.

    A pair's label depends on its place in the list and on the options, never on the number of
    pairs. Each pair has two uniform numbers of its own: one decides a Bradley-Terry draw (and, as
    a fair coin, a tie), the other whether the label is flipped afterwards.

    Args:
        first: First response of each pair.
        second: Second response of each pair.
        options: ``proxy``, ``labels``, ``temperature``, ``flip_rate`` and ``seed``.
        yardstick: Responses over which a proxy is scaled to the gold reward's standard deviation,
            so that the temperature of Bradley-Terry labels is in units of the gold reward.

    Returns:
        Booleans, shape [pair].
    """
    score = SCORES[options.proxy]
    difference = np.subtract(score(first), score(second))
    if options.labels == "bradley_terry":
        slope = _scale(score, yardstick) / options.temperature
        # sigmoid(x) = (1 + tanh(x / 2)) / 2 does not overflow
        probability = (1 + np.tanh(slope * difference / 2)) / 2
    else:
        probability = (1 + np.sign(difference)) / 2
    generator = np.random.default_rng(stream_seed("labels", options.seed))
    draws = generator.random((len(first), 2))
    wins: NDArray[np.bool_] = draws[:, 0] < probability
    return wins ^ (draws[:, 1] < options.flip_rate)


def _scale(score: Score, yardstick: Sequence[str]) -> float:
    """Gold units per unit of the score: the ratio of the standard deviations."""
    if score is gold_scores:
        return 1.0
    spread = float(np.std(score(yardstick), ddof=1))
    return float(np.std(gold_scores(yardstick), ddof=1)) / spread if spread > 0 else 1.0
