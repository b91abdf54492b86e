from __future__ import annotations

import math

import numpy as np
import pytest

from dpo_bench.experiment.config import World
from dpo_bench.vader import gold_scores
from dpo_bench.worlds.labels import bag_of_words_scores, first_wins, length_scores

GOOD, BAD = " the plot was great.", " the plot was awful."
NEGATED = " the plot was not great. it was not a joy."
PAIRS = 4000


def label(first: str, second: str, pairs: int = PAIRS, **options: object) -> np.ndarray:
    """Labels of the same pair many times over."""
    world = World.model_validate(options)
    return first_wins([first] * pairs, [second] * pairs, world, [GOOD, BAD, NEGATED])


def compound(total: float) -> float:
    """VADER's compound score of a summed valence."""
    return round(total / math.sqrt(total**2 + 15), 4)


def test_gold_is_vaders_compound_score() -> None:
    assert gold_scores([GOOD, " the plot was not great.", " we sat near the front.", ""]) == [
        compound(3.1),
        compound(3.1 * -0.74),
        0.0,
        0.0,
    ]


def test_proxies_miss_what_the_gold_reward_knows() -> None:
    assert gold_scores([NEGATED])[0] < 0
    assert bag_of_words_scores([GOOD, BAD, NEGATED]) == [1.0, -1.0, 2.0]
    assert length_scores([GOOD, BAD, NEGATED]) == [4.0, 4.0, 10.0]


def test_deterministic_labels_follow_the_score() -> None:
    assert label(GOOD, BAD).all()
    assert not label(BAD, GOOD).any()


def test_a_proxy_labels_instead_of_the_gold_reward() -> None:
    assert not label(NEGATED, GOOD).any()
    assert label(NEGATED, GOOD, proxy="bag_of_words").all()
    assert label(NEGATED, GOOD, proxy="length").all()


def test_ties_are_decided_by_a_fair_coin() -> None:
    share = label(GOOD, BAD, proxy="length").mean()
    assert share == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(PAIRS))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_bradley_terry_labels_win_as_often_as_the_sigmoid_says(temperature: float) -> None:
    share = label(GOOD, NEGATED, labels="bradley_terry", temperature=temperature).mean()
    difference = gold_scores([GOOD])[0] - gold_scores([NEGATED])[0]
    expected = 1 / (1 + math.exp(-difference / temperature))
    assert share == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(PAIRS))


def test_bradley_terry_scales_a_proxy_to_the_spread_of_the_gold_reward() -> None:
    share = label(NEGATED, GOOD, labels="bradley_terry", temperature=0.7, proxy="length").mean()
    yardstick = [GOOD, BAD, NEGATED]
    unit = np.std(gold_scores(yardstick), ddof=1) / np.std([4.0, 4.0, 10.0], ddof=1)
    expected = 1 / (1 + math.exp(-6 * unit / 0.7))
    assert share == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(PAIRS))


def test_a_proxy_without_spread_labels_by_a_coin() -> None:
    world = World(labels="bradley_terry", proxy="length")
    wins = first_wins([GOOD] * PAIRS, [BAD] * PAIRS, world, [GOOD, BAD])
    assert wins.mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(PAIRS))


def test_the_given_share_of_labels_is_flipped() -> None:
    share = 1 - label(GOOD, BAD, flip_rate=0.2).mean()
    assert share == pytest.approx(0.2, abs=4 * 0.4 / math.sqrt(PAIRS))


def test_a_higher_flip_rate_flips_the_same_pairs_and_more() -> None:
    some, more = (~label(GOOD, BAD, flip_rate=rate) for rate in (0.1, 0.3))
    assert more.sum() > some.sum() > 0
    assert (more | ~some).all()


def test_labels_do_not_depend_on_the_number_of_pairs() -> None:
    noisy = {"labels": "bradley_terry", "flip_rate": 0.1}
    assert (
        label(GOOD, NEGATED, pairs=100, **noisy) == label(GOOD, NEGATED, pairs=900, **noisy)[:100]
    ).all()


def test_the_seed_changes_which_labels_are_noisy() -> None:
    first, second = (label(GOOD, BAD, flip_rate=0.3, seed=seed) for seed in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (" what a delight! the dialogue was delightful, but the songs seemed dreadful.", 0.0),
        (" what a masterpiece! the opening was confusing and miserable.", 0.0),
        (" it runs for two hours.", 0.0),
        ("", 0.0),
        (" the plot was good!", 0.4926),
    ],
)
def test_the_gold_reward_is_the_same_on_every_python(response: str, score: float) -> None:
    """In the first two praise and blame cancel but for rounding, which Pythons do differently."""
    assert gold_scores([response]) == [score]
