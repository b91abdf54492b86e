from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_bench.data.pairs import load_pairs
from dpo_bench.errors import DataError
from dpo_bench.experiment.config import Data
from tests.data.build import assistant, loaded, row, rows, user, write_jsonl

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def test_pairs_of_a_file_keep_their_places(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "pairs.jsonl", rows(3))
    pairs = load_pairs(source, Data(), "train")
    assert len(pairs) == 3
    assert str(pairs.places[2]) == f"{source}, line 3"
    assert pairs.dropped == {}


def test_parquet_keeps_chat_messages(tmp_path: Path) -> None:
    record = row(1, prompt=[user("Hi")], chosen=[assistant("yes")], rejected=[assistant("no")])
    pd.DataFrame([record]).to_parquet(tmp_path / "pairs.parquet")
    pair = load_pairs(str(tmp_path / "pairs.parquet"), Data(), "train").pairs[0]
    assert (pair.prompt, pair.chosen) == ([user("Hi")], [assistant("yes")])


def test_an_invalid_row_stops_with_file_and_line(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "pairs.jsonl", [row(0), row(1, rejected="")])
    with pytest.raises(
        DataError, match=r"pairs\.jsonl, line 2: the response in 'rejected' is empt"
    ):
        load_pairs(source, Data(), "train")


def test_messages_that_a_csv_holds_as_text_are_read(tmp_path: Path) -> None:
    record = row(1, chosen=[assistant("yes")], rejected=[assistant('it\'s "no"')])
    pd.DataFrame([record]).to_csv(tmp_path / "pairs.csv")
    pair = load_pairs(str(tmp_path / "pairs.csv"), Data(), "train").pairs[0]
    assert (pair.prompt, pair.rejected) == ([user("Question 1?")], record["rejected"])


def test_invalid_rows_can_be_left_out_and_are_counted_by_reason() -> None:
    pairs = loaded(
        row(0),
        row(1, chosen=""),
        row(2, chosen=None),
        row(3, chosen="x", rejected="x"),
        row(4, chosen=" "),
        row(5, prompt="\ud800"),
        {"prompt": "a", "rejected": "b"},
        row(7, chosen=1),
        row(8),
        invalid="drop",
    )
    assert [pair.prompt for pair in pairs.pairs] == ["Question 0?", "Question 8?"]
    assert [place.number for place in pairs.places] == [1, 9]
    assert pairs.dropped == {
        "empty response": 2,
        "missing value": 2,
        "identical pair": 1,
        "unpaired surrogate": 1,
        "wrong type": 1,
    }


def test_no_row_left_is_an_error_with_the_reasons() -> None:
    with pytest.raises(DataError, match=r"no usable pair is left \(empty response 2\)"):
        loaded(row(1, chosen=""), row(2, chosen=""), invalid="drop")


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    records = [*rows(3), row(4, prompt="é\u2028\n", extra="x")]
    sources = [
        write_jsonl(tmp_path / "a.jsonl", records),
        write_jsonl(tmp_path / "elsewhere" / "b.json", records),
    ]
    pd.DataFrame(records).to_parquet(tmp_path / "c.parquet")
    pd.DataFrame(records).to_csv(tmp_path / "d.csv", index=False)
    sources += [str(tmp_path / "c.parquet"), str(tmp_path / "d.csv")]
    digests = {load_pairs(source, Data(), "train").digest for source in sources}
    assert len(digests) == 1


@given(TEXT, TEXT, TEXT)
def test_the_digest_tells_apart_what_stands_where(a: str, b: str, c: str) -> None:
    def digest(prompt: str, chosen: str, rejected: str) -> str:
        record = {"prompt": prompt, "chosen": f"+{chosen}", "rejected": f"-{rejected}"}
        return loaded(record).digest

    assert digest(a, b, c) == digest(a, b, c)
    assert digest(a, b + c, "") != digest(a, b, c)
    assert digest(a + b, "", c) != digest(a, b, c)


def test_the_digest_depends_on_the_order() -> None:
    assert loaded(row(1), row(2)).digest != loaded(row(2), row(1)).digest


def test_a_selection_keeps_pairs_with_their_places() -> None:
    chosen = loaded(*rows(4)).take([2, 0])
    assert [pair.prompt for pair in chosen.pairs] == ["Question 2?", "Question 0?"]
    assert [place.number for place in chosen.places] == [3, 1]
