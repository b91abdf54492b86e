"""Running the real command line."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest

from dpo_bench.__main__ import main
from dpo_bench.storage import read_parquet

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


def dpo_bench(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``python -m dpo_bench`` and check its exit code."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return _with_code(done, code)


def dpo_bench_here(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The same within this process, whose imports it is spared.

    Its workers are processes all the same. Not for plugins: the registry would keep them.
    """
    command = ["dpo-bench", *map(str, arguments)]
    out, errors = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with (
            mock.patch.object(sys, "argv", command),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    exit_code = int(ended.value.code or 0)
    done = subprocess.CompletedProcess(command, exit_code, out.getvalue(), errors.getvalue())
    return _with_code(done, code)


def _with_code(
    done: subprocess.CompletedProcess[str], code: int
) -> subprocess.CompletedProcess[str]:
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def results(folder: Path) -> pd.DataFrame:
    """The results table of a sweep."""
    return read_parquet(folder / "results.parquet")
