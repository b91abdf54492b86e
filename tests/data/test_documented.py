"""Every block of rows in docs/data.md gives what stands under it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dpo_bench.data.pairs import pairs_from_rows
from dpo_bench.data.rows import Rows
from dpo_bench.data.shapes import SHAPES
from dpo_bench.errors import DataError
from dpo_bench.experiment.config import Data

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
Example = tuple[dict[str, Any], list[dict[str, Any]], str, str]


def examples() -> Iterator[Example]:
    """Options, rows, and what is expected of them: ``json`` (pairs) or ``text`` (an error)."""
    options: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for kind, content in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if kind == "toml":
            options = tomllib.loads(content)
        elif kind == "jsonl":
            rows = [json.loads(line) for line in content.splitlines()]
        else:
            yield options, rows, kind, content
            options = {}


@pytest.mark.parametrize(("options", "rows", "kind", "content"), list(examples()))
def test_the_rows_give_what_the_page_says(
    options: dict[str, Any], rows: list[dict[str, Any]], kind: str, content: str
) -> None:
    if kind == "text":
        with pytest.raises(DataError, match=re.escape(content.strip())):
            pairs_from_rows(Rows.numbered("data", rows), Data(**options))
        return
    expected = [json.loads(line) for line in content.splitlines()]
    alone = "chosen" in rows[0]  # the rows of a block are forms of one pair, each read by itself
    found = [
        _without_defaults(asdict(pair))
        for group in ([[row] for row in rows] if alone else [rows])
        for pair in pairs_from_rows(Rows.numbered("data", group), Data(**options)).pairs
    ]
    assert found == (expected * len(rows) if len(expected) == 1 and alone else expected)


def test_every_shape_is_in_the_table_with_its_columns() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (`.*?) \|", PAGE, re.MULTILINE))
    for shape in SHAPES:
        assert set(re.findall(r"`(\w+)`", table[shape.name])) == shape.columns


def _without_defaults(pair: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in pair.items() if value not in (None, {})}
