"""Whether two sweeps' folders hold the same results, but for times."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from benchmarks.reliability.lab import TIMES

BYTES = ("samples.parquet", "heldout.parquet", "training.parquet", "checkpoint_prompts.parquet")
"""Files of a trial that have no times in them."""


def differences(found: Path, expected: Path) -> list[str]:
    """What differs, by name; empty: every result is there once, and the same bit by bit."""
    wrong = []
    try:
        ours, theirs = (table(folder) for folder in (found, expected))
    except (OSError, ValueError, KeyError) as error:
        return [f"results.parquet: {error}"]
    if not ours.equals(theirs):
        wrong.append("results.parquet")
    names = [sorted(path.name for path in (one / "trials").iterdir()) for one in (found, expected)]
    if names[0] != names[1]:
        return [*wrong, f"trials/: {names[0]}"]
    for trial in names[1]:
        wrong += _of_trial(found / "trials" / trial, expected / "trials" / trial)
    for file in sorted((expected / "reference").glob("*")):
        if not _same(found / "reference" / file.name, file):
            wrong.append(f"reference/{file.name}")
    return wrong


def table(folder: Path) -> pd.DataFrame:
    """A results table without times."""
    return pd.read_parquet(folder / "results.parquet").drop(columns=list(TIMES))


def _of_trial(found: Path, expected: Path) -> list[str]:
    files = [expected / name for name in BYTES]
    files += sorted((expected / "policy").glob("*"))
    wrong = [
        f"{expected.name}/{file.relative_to(expected)}"
        for file in files
        if not _same(found / file.relative_to(expected), file)
    ]
    ours, theirs = (json.loads((one / "evaluation.json").read_text()) for one in (found, expected))
    return wrong + ([f"{expected.name}/evaluation.json"] if ours != theirs else [])


def _same(found: Path, expected: Path) -> bool:
    return found.is_file() and found.read_bytes() == expected.read_bytes()
