"""What is asked at a planned look agrees with what the report compares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dpo_bench.analysis.results import SweepResults, read_sweep
from dpo_bench.analysis.sequential import open_at_last_look
from dpo_bench.report.view import build_view
from tests.report.sweep_search import searched


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    return read_sweep(searched(tmp_path_factory.mktemp("looks") / "sweep"))


def test_losses_that_are_open_in_the_report_are_open_at_the_look(results: SweepResults) -> None:
    comparison = build_view(results).comparison
    assert not isinstance(comparison, str)
    near, words = open_at_last_look(results)
    pairs = [one for one in comparison.family.all if one.compared]
    assert [one.verdict for one in pairs].count("open") > 0
    assert set(near) == {"ipo"}
    assert 0 < near["ipo"] <= 1
    assert words == "0 better, 0 worse, 0 same, 1 open"


def test_nothing_is_open_where_nothing_is_compared(results: SweepResults) -> None:
    alone = [one | {"path": one["path"][:1]} for one in results.search["series"]]
    found = replace(results, search={**results.search, "series": alone})
    assert open_at_last_look(found) == ({}, "nothing is compared yet")


def test_it_can_be_asked_of_a_folder(tmp_path: Path) -> None:
    folder = searched(tmp_path / "sweep", end="")
    assert set(open_at_last_look(read_sweep(folder))[0]) == {"ipo"}
