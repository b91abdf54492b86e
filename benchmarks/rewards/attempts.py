"""Cases by name, in the processes that try them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from benchmarks.rewards import judges, scorers
from benchmarks.rewards.case import Lab, Outcome
from dpo_bench.storage import CACHE_VARIABLE

KINDS = {"Judges": judges.cases, "Reward models and functions": scorers.cases}
_LABS: list[Lab] = []


def prepare(root: Path, url: str) -> None:
    """Make a process ready: its laboratory, and one cache for all of them."""
    os.environ[CACHE_VARIABLE] = str(root / "cache")
    torch.set_num_threads(1)
    _LABS.append(Lab(root, url))


def attempt(kind: str, name: str) -> Outcome:
    """Try one case."""
    (case,) = (case for case in KINDS[kind]() if case.name == name)
    return _LABS[0].attempt(case)
