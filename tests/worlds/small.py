"""A world whose reference is trained in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpo_bench.experiment.config import World
from dpo_bench.progress import Progress, quiet
from dpo_bench.worlds.preferences import HELDOUT_FILE, TRAINING_FILE, preferences_folder
from dpo_bench.worlds.reference_policy import Recipe, reference_folder

SMALL = Recipe(width=32, feed_forward=64, steps=120, reviews_per_step=16)
NAME = "small"

Row = dict[str, str]


def model(seed: int = 0, progress: Progress = quiet) -> Path:
    """Folder of the small reference."""
    return reference_folder(NAME, SMALL, seed, progress)


def preferences(progress: Progress = quiet, **options: Any) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows of the small world."""
    world = World.model_validate({"pairs": 300} | options)
    folder = preferences_folder(NAME, SMALL, world, progress)
    return rows(folder / TRAINING_FILE), rows(folder / HELDOUT_FILE)


def rows(file: Path) -> list[Row]:
    """The lines of a JSON-lines file."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def texts(row: Row) -> tuple[str, frozenset[str]]:
    """A row without its label."""
    return row["prompt"], frozenset({row["chosen"], row["rejected"]})
