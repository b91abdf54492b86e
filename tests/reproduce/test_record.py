"""Rows, verdicts, and the list of experiments."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys

import pytest

from dpo_bench.errors import ConfigurationError
from dpo_bench.reproduce.entries import EXPERIMENTS, exact_experiments, find_experiment
from dpo_bench.reproduce.record import KEYS, PublishedRow, Reproduced


def row(
    published: float | None,
    reproduced: float | None,
    tolerance: float | None = 0.1,
    rerun: float | None = None,
) -> PublishedRow:
    return PublishedRow("paper", "series", 1.0, published, reproduced, tolerance, "src", rerun)


def test_the_verdict_is_the_distance_against_the_tolerance() -> None:
    assert row(1.0, 1.05).ok is True
    assert row(1.0, 0.85).ok is False
    assert row(None, 1.0, rerun=1.05).ok is True
    assert row(None, 2.0, rerun=1.0).ok is False


def test_nothing_to_compare_gives_no_verdict() -> None:
    assert row(None, 1.0).ok is None
    assert row(1.0, None).ok is None
    assert row(1.0, 5.0, tolerance=None).ok is None
    rows = (row(None, 1.0), row(1.0, 5.0), row(1.0, 1.0))
    assert Reproduced(rows, "").failed == (rows[1],)


def test_a_row_for_programs_has_the_fixed_keys_and_no_nan() -> None:
    shown = row(None, math.nan).as_dict()
    assert tuple(shown) == KEYS
    assert tuple(shown) == (
        "source", "series", "x", "published", "reproduced", "tolerance", "ok",
    )  # fmt: skip
    assert shown["reproduced"] is None
    assert shown["published"] is None


def test_a_nan_of_ours_fails_the_verdict() -> None:
    assert row(1.0, math.nan).ok is False


def test_experiments_have_unique_names_and_what_a_list_needs() -> None:
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)
    for experiment in EXPERIMENTS:
        assert experiment.seconds > 0
        assert any(mark in experiment.source for mark in ("arXiv:", "20"))
        module, _, function = experiment.function.partition(":")
        assert callable(getattr(importlib.import_module(f"dpo_bench.reproduce.{module}"), function))
    assert {experiment.kind for experiment in exact_experiments()} == {"exact"}
    assert sum(experiment.seconds for experiment in exact_experiments()) < 120


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'ipo-figure-1'"):
        find_experiment("ipo-figur-1")


def test_listing_loads_no_torch() -> None:
    code = "import sys, dpo_bench.reproduce.command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
