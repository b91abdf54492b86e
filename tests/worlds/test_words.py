from __future__ import annotations

from vaderSentiment.vaderSentiment import (
    BOOSTER_DICT,
    NEGATE,
    SPECIAL_CASES,
    SentimentIntensityAnalyzer,
)

from dpo_bench.worlds.grammar import vocabulary
from dpo_bench.worlds.words import OPENERS, POLARITY, PUNCTUATION

LEXICON: dict[str, float] = SentimentIntensityAnalyzer().lexicon
PROMPTS_ONLY = {"empty"}  # VADER scores responses


def test_words_of_praise_and_blame_have_their_sign_in_vader() -> None:
    wrong = {
        word: LEXICON.get(word, 0.0)
        for word, sign in POLARITY.items()
        if LEXICON.get(word, 0.0) * sign <= 0
    }
    assert wrong == {}


def test_other_words_mean_nothing_to_vader() -> None:
    valued = [word for word in vocabulary() if word in LEXICON and word not in POLARITY]
    assert set(valued) <= PROMPTS_ONLY


def test_negations_and_degree_adverbs_are_those_the_grammar_means() -> None:
    words = set(vocabulary())
    assert words & set(NEGATE) == {"not", "never", "cannot"}
    boosters = {word for word in words if BOOSTER_DICT.get(word, 0) > 0}
    assert boosters == {
        *("very", "really", "quite", "extremely", "remarkably"),
        *("absolutely", "utterly", "completely"),
    }
    assert {word for word in words if BOOSTER_DICT.get(word, 0) < 0} == {"somewhat", "slightly"}
    assert not {phrase for phrase in SPECIAL_CASES if set(phrase.split()) <= words}


def test_every_polar_word_can_be_written() -> None:
    assert set(POLARITY) <= set(vocabulary())


def test_vocabulary_has_between_200_and_300_words() -> None:
    words = set(vocabulary()) - PUNCTUATION
    assert 200 <= len(words) <= 300
    assert words >= OPENERS
