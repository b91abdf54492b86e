"""Running the real command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from dpo_bench.tables import read_parquet

COMMAND = [sys.executable, "-m", "dpo_bench"]
QUICK = [
    "--set=training.steps=4",
    "--set=training.pairs_per_step=8",
    "--set=training.learning_rate=1e-3",
    "--set=evaluation.prompts=4",
    "--set=evaluation.samples_per_prompt=2",
    "--set=evaluation.max_new_tokens=8",
    "--set=evaluation.reference_samples=8",
    "--set=evaluation.resamples=100",
]


def dpo_bench(
    *arguments: object, cwd: Path | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m dpo_bench`` and check its exit code."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def results(folder: Path) -> pd.DataFrame:
    """The results table of a sweep."""
    return read_parquet(folder / "results.parquet")
