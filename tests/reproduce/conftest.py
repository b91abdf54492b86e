"""Every exact experiment runs once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from dpo_bench.reproduce.entries import find_experiment
from dpo_bench.reproduce.record import Reproduced

Run = Callable[[str], Reproduced]


@pytest.fixture(scope="session")
def run() -> Run:
    """Reproduced of an experiment by name."""
    return cache(lambda name: find_experiment(name).run())
