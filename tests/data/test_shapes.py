from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dpo_bench.data.formats import PreferencePair
from dpo_bench.data.pairs import LoadedPairs, load_pairs
from dpo_bench.errors import ConfigurationError, DataError
from dpo_bench.experiment.config import Data
from tests.data.build import assistant, loaded, row, user

YES = PreferencePair("Tea?", "Yes.", "No.")


def pairs(*records: dict[str, Any], **options: Any) -> list[PreferencePair]:
    return list(loaded(*records, **options).pairs)


def with_margin(margin: float) -> PreferencePair:
    return PreferencePair("Tea?", "Yes.", "No.", margin)


def completion(text: str, score: object) -> dict[str, Any]:
    return {"model": "m", "response": text, "overall_score": score}


def rated(text: str, score: object, prompt: str = "Tea?") -> dict[str, Any]:
    return {"prompt": prompt, "response": text, "helpfulness": score, "verbosity": 1}


@pytest.mark.parametrize(
    ("preference", "chosen", "margin"),
    [(-3, "A", 3.0), (-1, "A", 1.0), (2, "B", 2.0), ("1", "B", 1.0)],
)
def test_helpsteer3_prefers_the_first_below_zero(
    preference: object, chosen: str, margin: float
) -> None:
    record = {
        "domain": "general",
        "context": [user("Hi")],
        "response1": "A",
        "response2": "B",
        "overall_preference": preference,
    }
    (pair,) = pairs(record)
    assert pair.prompt == [user("Hi")]
    assert pair.chosen == [assistant(chosen)]
    assert pair.margin == margin


def test_helpsteer2_preference_has_its_own_columns() -> None:
    record = {"prompt": "Tea?", "response_1": "No.", "response_2": "Yes."}
    assert pairs(record | {"preference_strength": 2}) == [with_margin(2.0)]


def test_a_row_without_its_number_is_named_and_a_tie_is_not() -> None:
    record = {"prompt": "Tea?", "response_1": "Yes.", "response_2": "No."}
    rows = [record | {"preference_strength": number} for number in (-1, 0, None)]
    with pytest.raises(DataError, match=r"data, row 3: it has no number as 'preference_strength'"):
        loaded(*rows)
    found = loaded(*rows, invalid="drop")
    assert list(found.pairs) == [with_margin(1.0)]
    assert found.dropped == {"tie": 1, "missing value": 1}


def test_shp_labels_the_better_answer() -> None:
    record = {"history": "Tea?", "human_ref_A": "Yes.", "human_ref_B": "No.", "labels": 1}
    turned = {"history": "Tea?", "human_ref_A": "No.", "human_ref_B": "Yes.", "labels": 0}
    assert pairs(record, turned) == [YES, YES]
    assert pairs(turned | {"score_A": 4, "score_B": 29}) == [with_margin(25.0)]
    with pytest.raises(DataError, match="row 1: 'labels' is 2, neither 1 nor 0"):
        loaded(record | {"labels": 2})


def test_shp_from_a_csv_has_its_labels_as_text(tmp_path: Path) -> None:
    record = {"history": "Tea?", "human_ref_A": "No.", "human_ref_B": "Yes.", "labels": 0}
    pd.DataFrame([record | {"score_A": 1, "score_B": 3}]).to_csv(tmp_path / "a.csv", index=False)
    assert list(load_pairs(str(tmp_path / "a.csv"), Data(), "train").pairs) == [with_margin(2.0)]


@pytest.mark.parametrize(("better", "chosen"), [(0, "A"), (1, "B")])
def test_safe_rlhf_numbers_the_better_response(better: int, chosen: str) -> None:
    record = {"prompt": "Tea?", "response_0": "A", "response_1": "B", "safer_response_id": 0}
    assert pairs(record | {"better_response_id": better})[0].chosen == chosen


def test_arena_battles_share_their_prompt_and_may_be_ties() -> None:
    first, second = [user("Hi"), assistant("A")], [user("Hi"), assistant("B")]
    record = {"conversation_a": first, "conversation_b": second}
    winners = ["model_b", "tie", "tie (bothbad)", "model_a"]
    found = loaded(*(record | {"winner": winner} for winner in winners))
    assert [pair.chosen for pair in found.pairs] == [[assistant("B")], [assistant("A")]]
    assert [pair.prompt for pair in found.pairs] == [[user("Hi")]] * 2
    assert found.dropped == {"tie": 2}


def test_of_several_completions_the_best_meets_the_worst() -> None:
    texts = [completion("Well.", 5), completion("No.", 2.5), completion("Yes.", 8.0)]
    assert pairs({"instruction": "Tea?", "completions": texts}) == [with_margin(5.5)]


def test_completions_without_a_score_are_passed_over() -> None:
    texts = [completion("Worst.", None), completion("No.", "1"), completion("Yes.", "4")]
    assert pairs({"instruction": "Tea?", "completions": texts}) == [with_margin(3.0)]


def test_completions_that_are_no_pair_are_counted() -> None:
    good = {"instruction": "Tea?", "completions": [completion("Yes.", 2), completion("No.", 1)]}
    found = loaded(
        good,
        {"instruction": "a", "completions": [completion("x", 3), completion("y", 3)]},
        {"instruction": "b", "completions": [completion("x", 3)]},
        {"instruction": "c", "completions": []},
        {"instruction": "d", "completions": None},
    )
    assert list(found.pairs) == [with_margin(1.0)]
    assert found.dropped == {"tie": 1, "fewer than two responses": 3}
    with pytest.raises(DataError, match="row 2: 'completions' is no list of responses"):
        loaded(good, {"instruction": "a", "completions": ["x", "y"]})


def test_generations_and_ratings_go_together() -> None:
    record = {"input": "Tea?", "generations": ["No.", "Yes."], "ratings": [1.0, 4.0]}
    assert pairs(record) == [with_margin(3.0)]
    with pytest.raises(DataError, match="'generations' is no list of responses"):
        loaded(record | {"ratings": [1.0]})


def test_nectar_ranks_from_one() -> None:
    answers = [{"answer": text, "rank": rank} for text, rank in [("b", 2), ("No.", 7), ("Yes.", 1)]]
    assert pairs({"prompt": "Tea?", "answers": answers}) == [with_margin(6.0)]


def test_consecutive_rows_of_one_prompt_make_a_pair() -> None:
    found = loaded(
        rated("No.", 1),
        rated("Yes.", 4),
        rated("a", 2, "one"),
        rated("b", 2, "one"),
        rated("alone", 4, "two"),
        rated("x", 0, "three"),
        rated("z", 1, "three"),
        rated("y", 3, "three"),
    )
    assert list(found.pairs) == [with_margin(3.0), PreferencePair("three", "y", "x", 3.0)]
    assert [place.number for place in found.places] == [1, 6]
    assert found.dropped == {"tie": 1, "fewer than two responses": 1}


def test_rows_that_are_not_consecutive_are_no_pair() -> None:
    records = [rated("No.", 1), rated("a", 2, "one"), rated("Yes.", 4), rated("b", 1, "one")]
    with pytest.raises(DataError, match=r"no usable pair is left \(fewer than two responses 4\)"):
        loaded(*records)


def test_scored_rows_may_hold_chats_and_tools() -> None:
    records = [rated("No.", 1), rated("Yes.", 2)]
    for record in records:
        record |= {"prompt": [user("Tea?")], "system": "Be kind.", "tools": [{"name": "x"}]}
    (pair,) = pairs(*records)
    assert pair.prompt == [{"role": "system", "content": "Be kind."}, user("Tea?")]
    assert pair.template_arguments == {"tools": [{"name": "x"}]}


def test_columns_of_pairs_win_over_those_of_a_shape() -> None:
    record = row(1, completions=[completion("x", 1), completion("y", 2)], instruction="i")
    assert pairs(record) == [PreferencePair("Question 1?", " Yes, 1.", " No, 1.")]
    assert pairs(record, shape="ultrafeedback") == [PreferencePair("i", "y", "x", 1.0)]


def test_a_margin_of_the_users_choice_wins() -> None:
    record = {"history": "Tea?", "human_ref_A": "Yes.", "human_ref_B": "No.", "labels": 1}
    record |= {"score_A": 9, "score_B": 1, "score_ratio": 2.5}
    assert pairs(record, margin_column="score_ratio") == [with_margin(2.5)]


def test_a_shape_says_what_was_done() -> None:
    found: LoadedPairs = loaded(rated("No.", 1), rated("Yes.", 4))
    assert found.description.startswith("HelpSteer: of consecutive rows with one prompt the best")


def test_an_unknown_shape_is_a_wrong_key_and_a_missing_column_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"'help_steer' is no shape \(did you mean"):
        loaded(row(1), shape="help_steer")
    with pytest.raises(DataError, match=r"data\.shape = 'shp' needs .*; there is no history, hum"):
        loaded(row(1, labels=1), shape="shp")
