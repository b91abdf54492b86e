from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from dpo_bench.data.arguments import template_arguments
from dpo_bench.data.pairs import load_pairs
from dpo_bench.data.problems import RowProblem
from dpo_bench.experiment.config import Data
from tests.data.build import loaded, row, user, write_jsonl

TOOL = {"type": "function", "function": {"name": "sky", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "sea", "description": "wet"}}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"tools": [TOOL]}, {"tools": [TOOL]}),
        ({"tools": json.dumps([TOOL])}, {"tools": [TOOL]}),
        ({"tools": [json.dumps(TOOL)]}, {"tools": [TOOL]}),
        ({"tools": None}, {}),
        ({"tools": []}, {}),
        ({"tools": ""}, {}),
        ({"tools": "[]"}, {}),
        ({"tools": "hammer and saw"}, {}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"chat_template_kwargs": '{"enable_thinking": false}'}, {"enable_thinking": False}),
        ({"chat_template_kwargs": {"date": None}}, {}),
        (
            {"tools": [TOOL], "chat_template_kwargs": {"date": "1 May"}},
            {"tools": [TOOL], "date": "1 May"},
        ),
    ],
)
def test_what_the_template_is_to_be_given(columns: dict[str, Any], expected: Any) -> None:
    assert template_arguments(columns) == expected
    assert loaded(row(1, prompt=[user("Hi")], **columns)).pairs[0].template_arguments == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tools": [1]}, "'tools' must be a list of objects"),
        ({"tools": TOOL}, "'tools' must be a list of objects"),
        ({"tools": "[{cut"}, "'tools' must be a list of objects"),
        ({"chat_template_kwargs": "no"}, "'chat_template_kwargs' must be an object"),
        ({"chat_template_kwargs": {"tokenize": True}}, "must not set 'tokenize'"),
        ({"chat_template_kwargs": {"x": float("inf")}}, "nothing that JSON can spell"),
    ],
)
def test_what_no_template_could_be_given_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(RowProblem, match=message):
        template_arguments(columns)


def test_tools_are_the_same_from_every_kind_of_file(tmp_path: Path) -> None:
    records = [row(n, prompt=[user(f"{n}")], tools=[tool]) for n, tool in enumerate((TOOL, OTHER))]
    sources = [write_jsonl(tmp_path / "a.jsonl", records), str(tmp_path / "b.parquet")]
    datasets.Dataset.from_list(records).to_parquet(sources[1])
    found = [load_pairs(source, Data(), "train") for source in sources]
    assert [pair.template_arguments for pair in found[1].pairs] == [
        {"tools": [TOOL]},
        {"tools": [OTHER]},
    ]
    assert found[0].digest == found[1].digest


def test_the_digest_covers_them_whatever_their_order() -> None:
    chat = row(1, prompt=[user("Hi")])
    bare = loaded(chat).digest
    turned = {key: TOOL[key] for key in reversed(TOOL)}
    assert loaded(chat | {"tools": None, "chat_template_kwargs": {}}).digest == bare
    assert loaded(chat | {"tools": [TOOL]}).digest == loaded(chat | {"tools": [turned]}).digest
    different: list[dict[str, Any]] = [
        {"tools": [TOOL]},
        {"tools": [OTHER]},
        {"chat_template_kwargs": {"date": "x"}},
    ]
    assert len({bare, *(loaded(chat | columns).digest for columns in different)}) == 4


def test_the_digest_of_pairs_without_them_is_what_it_always_was() -> None:
    # sha256 of '["Question 1?"," Yes, 1."," No, 1."]\n', by coreutils
    before = "90a25499cbacdf0a92196b1b25c716716e91521aed0faae285b635b1f0a6862c"
    assert loaded(row(1)).digest == before
