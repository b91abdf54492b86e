"""What a folder's search remembers of what was sought in it before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpo_bench.experiment import Experiment, validate
from dpo_bench.search.exploration import Stage
from dpo_bench.sweep.searching import _sought_before


class Folder:
    """As much of a store as is asked: its record, its search and which trials are there."""

    def __init__(self, path: Path) -> None:
        self.search_file = path / "search.json"
        self.record: dict[str, Any] = {}
        self.trials: set[str] = set()

    def read_experiment(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.record))  # type: ignore[no-any-return]

    def add_to_record(self, more: dict[str, Any]) -> None:
        self.record |= more

    def read_search(self) -> dict[str, Any]:
        return json.loads(self.search_file.read_text())  # type: ignore[no-any-return]

    def manifest(self, trial: str) -> object | None:
        return object() if trial in self.trials else None


def seeking(*kls: float) -> Experiment:
    base = {"name": "x", "policy": "world:reviews", "preferences": "world:reviews"}
    return validate({**base, "losses": ["dpo"], "search": {"kl": kls}}, "file")


def test_what_was_known_when_kls_were_changed_is_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path)

    def sought(*kls: float) -> list[Stage]:
        return _sought_before(seeking(*kls), folder)  # type: ignore[arg-type]

    assert sought(1, 2) == []
    folder.search_file.write_text(json.dumps({"trials": ["a", "b", "c"]}))
    folder.trials = {"a", "c"}
    assert sought(1, 2) == []
    first = Stage((1.0, 2.0), 0.1, frozenset("ac"))
    assert sought(4) == [first]
    folder.trials = {"a", "b", "c"}
    assert sought(4) == [first], "results that came since belong to what is sought now"
    # What was sought at first is sought again: after the other, with what was known by then.
    assert sought(1, 2) == [first, Stage((4.0,), 0.1, frozenset("abc"))]


def test_a_record_without_what_was_known_is_read(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.record = {"sought": [[[1, 2], 0.1], [[4], 0.1]]}
    assert _sought_before(seeking(4), folder) == [Stage((1.0, 2.0), 0.1)]  # type: ignore[arg-type]
