"""The changes are of code that runs, and a change that no test notices is told from one that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutation.modules import (
    PACKAGES,
    ROOT,
    all_modules,
    files_with_tests,
    imported_as,
    matching,
    package_of,
)
from benchmarks.mutation.report import Found, load, write

MODULE = '''"""Which of two is larger."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Number = 1 + 1


def larger(one: int | None, other: int) -> int:
    if one is None:
        return other
    return one if one > other else other
'''
TESTS = """from larger import larger


def test_larger() -> None:
    assert larger(2, 1) == 2
    assert larger(1, 2) == 2
"""


def test_every_package_has_modules_and_tests() -> None:
    for package in PACKAGES:
        assert any(package_of(module) == package for module in all_modules())
        assert files_with_tests(package, ROOT)
    assert matching(["losses/dpo."]) == ["losses/dpo.py"]
    with pytest.raises(SystemExit, match=r"no module of .* is named nowhere"):
        matching(["nowhere"])


def test_a_loss_is_imported_from_within_the_package() -> None:
    assert imported_as("losses/dpo.py") == "dpo_bench.losses.dpo"
    assert imported_as("dpo_bench/sweep/store.py") == "dpo_bench.sweep.store"


def test_changes_are_of_code_that_runs_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    pytest.importorskip("cosmic_ray")
    from benchmarks.mutation.mutants import applied, sample

    file = tmp_path / "larger.py"
    file.write_text(MODULE)
    found = sample("larger.py", file, 100, seed=0)
    assert found == sample("larger.py", file, 100, seed=0)
    assert len(sample("larger.py", file, 1, seed=0)) == 1
    assert {mutant.line for mutant in found} <= {12, 14}, "no annotation, no import for types"
    for mutant in found:
        with applied(mutant, tmp_path) as (before, after):
            assert before in MODULE
            assert after in file.read_text()
            assert before != after
        assert file.read_text() == MODULE


@pytest.mark.slow  # it imports what all tests import
def test_outcome_is_what_the_tests_say(tmp_path: Path) -> None:
    from benchmarks.mutation.trial import run_tests

    tests = tmp_path / "test_larger.py"
    tests.write_text(TESTS)

    def outcome(module: str, timeout: float = 60) -> str:
        (tmp_path / "larger.py").write_text(module)
        return run_tests(tmp_path, [str(tests)], timeout).outcome

    assert outcome(MODULE) == "survived"
    assert outcome(MODULE.replace("one > other", "one < other")) == "killed"
    assert outcome(MODULE.replace("one > other", "one >= other")) == "survived"
    endless = MODULE.replace(
        "    if one is None:", "    while one:\n        pass\n    if one is None:"
    )
    assert outcome(endless, timeout=5) == "timed out"


def test_report_counts_and_lists_survivors(tmp_path: Path) -> None:
    rows = [
        Found("losses/a.py", 3, "core/AddNot", "killed", "if x:", "if not x:"),
        Found("losses/a.py", 5, "core/NumberReplacer", "survived", "y = 1", "y = 2"),
        Found("losses/a.py", 6, "core/NumberReplacer", "timed out", "z = 1", "z = 0"),
        Found("dpo_bench/sweep/b.py", 1, "core/AddNot", "killed", "if x:", "if not x:"),
    ]
    write(tmp_path, rows, sample=4, seed=0)
    assert set(load(tmp_path)) == set(rows)
    page = (tmp_path / "README.md").read_text()
    assert "| losses/a.py | 3 | 1 | 1 | 1 | 0 | 67% |" in page
    assert "| **all** | 4 | 2 | 1 | 1 | 0 | 75% |" in page
    assert "- losses/a.py:5: `y = 1` -> `y = 2`" in page
    assert load(tmp_path / "nowhere") == []
