from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_bench.vader import gold_scores
from dpo_bench.worlds.grammar import (
    PROMPT_TOKENS,
    RESPONSE_TOKENS,
    RESPONSE_WORDS,
    Review,
    is_prompt,
    polarities,
    spell,
    split,
    vocabulary,
    write_prompt,
    write_review,
)
from dpo_bench.worlds.words import KEPT, NEUTRAL_LISTS, PUNCTUATION

PROMPT = "we saw a new western about a poet on friday. my review:"
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def reviews() -> list[Review]:
    generator = np.random.default_rng(7)
    return [write_review(generator) for _ in range(4000)]


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_the_recognizer_accepts_what_the_grammar_writes(seed: int) -> None:
    review = write_review(np.random.default_rng(seed))
    assert is_prompt(review.prompt)
    assert review.polarity in polarities(review.prompt, review.response)


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_texts_have_the_promised_lengths_and_split_into_what_they_were_spelled_from(
    seed: int,
) -> None:
    review = write_review(np.random.default_rng(seed))
    prompt, response = split(review.prompt), split(review.response)
    assert len(prompt) in PROMPT_TOKENS
    assert len(response) in RESPONSE_TOKENS
    assert sum(token not in PUNCTUATION for token in response) in RESPONSE_WORDS
    assert spell(prompt, opens=True) == review.prompt
    assert spell(response, opens=False) == review.response
    assert split(review.prompt + review.response) == prompt + response
    assert set(prompt + response) <= set(vocabulary())


def test_the_same_seed_writes_the_same_reviews() -> None:
    first, second, other = (
        [write_review(np.random.default_rng(seed)) for _ in range(3)] for seed in (1, 1, 2)
    )
    assert first == second != other


def test_prompts_alone_are_drawn_like_prompts_of_reviews() -> None:
    generators = np.random.default_rng(3), np.random.default_rng(3)
    assert [write_prompt(generators[0]) for _ in range(20)] == [
        write_review(generators[1]).prompt for _ in range(20)
    ]


@pytest.mark.parametrize(
    ("response", "accepted"),
    [
        (" the plot was not very dull.", {"+"}),
        (" that poet was superb. it wasted my evening.", {""}),
        (" the plot was dull, but the songs seemed superb.", {"+"}),
        (" the plot was dull. it was a mess.", {"-", ""}),
    ],
)
def test_polarity_is_read_through_negation_and_contrast(response: str, accepted: set[str]) -> None:
    assert polarities(PROMPT, response) == accepted


@pytest.mark.parametrize(
    "response",
    [
        " that sailor was superb.",  # not this prompt's poet
        " this musical was superb.",  # nor its western
        " the plot was dull, but the songs seemed awful.",  # no contrast
        " the plot was dull and superb.",
        " the plot were dull indeed.",
        " the plot was dull",  # no end
        "the plot was not very dull.",  # no joining space
        " the plot was not very dull .",
        " plot the was very very dull.",
        " it was.",
        "",
    ],
)
def test_the_recognizer_rejects_other_texts(response: str) -> None:
    assert polarities(PROMPT, response) == set()


@pytest.mark.parametrize(
    "prompt",
    [
        "we saw a new western about a poet on friday. my review",
        " we saw a new western about a poet on friday. my review:",
        "saw we a new western about a poet on friday. my review:",
        "the plot was very dull. it was a mess.",
    ],
)
def test_the_recognizer_rejects_other_prompts(prompt: str) -> None:
    assert not is_prompt(prompt)


def test_a_review_keeps_to_the_subject_of_its_prompt(reviews: list[Review]) -> None:
    for name in KEPT - {"place"}:
        words = set(NEUTRAL_LISTS[name].split())
        for review in reviews:
            assert words.intersection(split(review.response)) <= set(split(review.prompt))


def test_articles_stand_before_consonants(reviews: list[Review]) -> None:
    tokens = [token for review in reviews for token in split(review.prompt + review.response)]
    followers = {after for token, after in itertools.pairwise(tokens) if token == "a"}
    assert followers
    assert {word for word in followers if word[0] in "aeiou"} == set()


def test_the_gold_reward_agrees_with_the_polarity_that_was_meant(reviews: list[Review]) -> None:
    decided = [review for review in reviews if review.polarity]
    meant = np.array([1 if review.polarity == "+" else -1 for review in decided])
    gold = np.array(gold_scores([review.response for review in decided]))
    assert np.mean(np.sign(gold) == meant) > 0.985


def test_sentiment_is_no_bag_of_words(reviews: list[Review]) -> None:
    tokens = [set(split(review.response)) for review in reviews]
    assert np.mean([bool(words & {"not", "never", "cannot"}) for words in tokens]) > 0.2
    assert np.mean(["but" in words for words in tokens]) > 0.1


def test_prompts_hint_at_the_polarity_without_giving_it_away(reviews: list[Review]) -> None:
    for hint, sign in (("stayed", "+"), ("packed", "+"), ("left", "-"), ("half", "-")):
        followed = [review.polarity for review in reviews if hint in split(review.prompt)]
        assert 0.55 < np.mean([polarity == sign for polarity in followed]) < 0.75
    plain = [review.polarity for review in reviews if review.prompt.startswith("last")]
    assert 0.35 < np.mean([polarity == "+" for polarity in plain]) < 0.55
