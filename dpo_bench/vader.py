"""VADER's compound score, the same on every Python: the reward of the embedded world."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


@functools.cache
def _analyser() -> SentimentIntensityAnalyzer:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    class Analyser(SentimentIntensityAnalyzer):  # type: ignore[misc]  # it has no types
        """VADER with one sum for every Python: since 3.12 the built-in one compensates rounding.

        Where praise and blame cancel, a last bit decides whether an exclamation mark counts, and
        moves the score by up to 0.08.
        """

        def score_valence(self, sentiments: list[float], text: str) -> dict[str, float]:
            total = [functools.reduce(operator.add, sentiments)] if sentiments else []
            scores: dict[str, float] = super().score_valence(total, text)
            return {"compound": scores["compound"]}  # the others are shares of single words

    return Analyser()


def gold_scores(responses: Sequence[str]) -> list[float]:
    """Gold reward of each response: VADER's compound score, in [-1, 1].

    >>> gold_scores([" the plot was great.", " the plot was not great."])
    [0.6249, -0.5096]
    """
    return list(map(_gold_score, responses))


@functools.lru_cache(maxsize=1 << 14)  # a world's responses are asked for several times
def _gold_score(response: str) -> float:
    return float(_analyser().polarity_scores(response)["compound"])
