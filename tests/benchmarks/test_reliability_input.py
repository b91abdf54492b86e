"""A short form of the fuzzer; ``python -m benchmarks.reliability fuzz`` is the long one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.reliability import fuzz
from benchmarks.reliability.fuzz import Case, Findings, experiments, models, pairs, silent

Kind = Callable[[Path, random.Random], Iterator[Case]]


@pytest.mark.parametrize(
    ("kind", "count"),
    [(experiments, 300), (pairs, 300), (models, 40)],
    ids=["experiments", "pairs", "models"],
)
def test_any_input_is_read_or_refused_in_a_line(tmp_path: Path, kind: Kind, count: int) -> None:
    with silent():
        found = fuzz.fuzz(kind(tmp_path, random.Random(20)), 60, count)
    assert found.tried == count
    assert 0 < found.refused < count
    assert not found.wrong


def test_a_traceback_a_hang_and_an_endless_message_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dpo_bench.errors import DataError

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    found = Findings()

    def fails() -> None:
        raise KeyError("planted")

    def hangs() -> None:
        time.sleep(10)

    def tells_too_much() -> None:
        raise DataError("line\n" * 50)

    for case in (fails, hangs, tells_too_much, list):
        found.attempt(case)
    assert found.tried == 4
    assert found.refused == 1
    first, second, third = sorted(found.wrong)
    assert first.startswith("KeyError")
    assert second.startswith("hang")
    assert third.startswith("message")
