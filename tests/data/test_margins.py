from __future__ import annotations

from typing import Any

import pytest

from dpo_bench.data.margins import SCORES, as_number
from tests.data.build import loaded, row


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2.0),
        (0.5, 0.5),
        ("0.5", 0.5),
        (" -3 ", -3.0),
        ("1e2", 100.0),
        ("", None),
        ("much", None),
        ("nan", None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ([1], None),
        (10**400, None),
    ],
)
def test_numbers_may_be_text(value: Any, number: float | None) -> None:
    assert as_number(value) == number
    assert loaded(row(1, margin=value)).pairs[0].margin == number


@pytest.mark.parametrize("names", SCORES)
def test_two_scores_give_the_margin(names: tuple[str, str]) -> None:
    found = loaded(row(1, **{names[0]: 8.5, names[1]: "6"}), row(2, **{names[0]: 3, names[1]: 4}))
    assert [pair.margin for pair in found.pairs] == [2.5, -1.0]
    assert f"margin: {names[0]} - {names[1]}" in found.description


def test_a_margin_of_its_own_wins_and_none_can_be_asked_for() -> None:
    record = row(1, margin=7, score_chosen=2, score_rejected=1)
    assert loaded(record).pairs[0].margin == 7.0
    assert loaded(record, margin_column="score_chosen").pairs[0].margin == 2.0
    assert loaded(record, margin_column="").pairs[0].margin is None
    assert loaded(row(1, score_chosen=2, score_rejected=None)).pairs[0].margin is None
    assert loaded(row(1, score_chosen=2)).pairs[0].margin is None
