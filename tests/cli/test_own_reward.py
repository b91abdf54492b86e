"""Rewards of a user's own through the real command line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.command import COMMAND, QUICK
from tests.conftest import PAIRS
from tests.tiny import save_model, save_tokenizer

REWARDS = """
import secrets

def of_prompts(prompts, responses):
    return [float(len(prompt) + secrets.randbelow(1)) for prompt in prompts]

def leaves(prompts, responses):
    raise SystemExit(7)

def of_more(completions, solution, **kwargs):
    return [0] * len(completions)
"""


def sweep(folder: Path, pairs_file: Path, name: str) -> subprocess.CompletedProcess[str]:
    """A sweep with a reward of a working directory in which files are called as libraries."""
    size = save_tokenizer(folder / "model", [" ".join(pair.values()) for pair in PAIRS])
    save_model(folder / "model", "llama", size)
    (folder / "own.py").write_text(REWARDS)
    for library in ("secrets", "numpy", "random", "signal", "dataclasses", "selectors"):
        (folder / f"{library}.py").write_text("raise SystemExit('not the library')")
    command = [
        *COMMAND, "sweep", "--policy=model", f"--preferences={pairs_file}", "--losses=dpo",
        "--beta=0.1", "--seeds=0", f"--reward=own:{name}", "--out=out", *QUICK,
    ]  # fmt: skip
    paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_a_reward_that_reads_prompts_alone_is_said(tmp_path: Path, pairs_file: Path) -> None:
    done = sweep(tmp_path, pairs_file, "of_prompts")
    assert done.returncode == 0, done.stderr
    assert (
        "Control 'responses' gave 0 [0, 0]: the reward does not depend on the response"
        in done.stdout
    )
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert table["control_responses"].tolist() == [0.0]
    assert table["control_order"].tolist() == [1.0]
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "'dependence on the response' gave 0.000 where above 0 is right" in report


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        pytest.param(
            "leaves", 4, "dpo-bench: reward own:leaves failed: SystemExit: 7 (own.py, line 8)",
            marks=pytest.mark.slow,
        ),
        ("of_more", 2, "signature (completions, solution, **kwargs): it must take prompts and"),
    ],
)  # fmt: skip
def test_a_reward_that_cannot_be_had_ends_the_sweep_in_a_line(
    tmp_path: Path, pairs_file: Path, name: str, code: int, words: str
) -> None:
    done = sweep(tmp_path, pairs_file, name)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
