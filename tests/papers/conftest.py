"""Every exact experiment runs once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from dpo_bench.papers.record import Outcome
from dpo_bench.papers.registry import find_experiment

Run = Callable[[str], Outcome]


@pytest.fixture(scope="session")
def run() -> Run:
    """Outcome of an experiment by name."""
    return cache(lambda name: find_experiment(name).run())
