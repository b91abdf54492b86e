"""What a dry run shows of a real model and real pairs, small enough to count."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dpo_bench.errors import DataError
from dpo_bench.experiment import Experiment
from dpo_bench.model.load import load_model
from dpo_bench.sweep.preview import SHOWN, _short, print_plan


def shown(model: Path, pairs: Path, workers: int | None = None, **changes: Any) -> list[str]:
    experiment = Experiment.model_validate(
        {
            "name": "plan",
            "policy": str(model),
            "preferences": str(pairs),
            "training": {"steps": 10, "pairs_per_step": 16, "seeds": [0, 1]},
            "evaluation": {"prompts": 3, "max_new_tokens": 4},
            "losses": [{"name": "dpo", "beta": [0.1, 0.3]}, {"name": "sft"}],
            **changes,
        }
    )
    screen = io.StringIO()
    print_plan(experiment, workers, Console(file=screen, width=200), "quiet")
    return screen.getvalue().splitlines()


def test_trials_are_listed_from_one(llama_folder: Path, pairs_file: Path) -> None:
    lines = shown(llama_folder, pairs_file)
    assert lines[0].strip() == "plan: 6 trials"
    cells = [re.split(r"\s*│\s*", line.strip("│ ")) for line in lines if line.startswith("│")]
    assert [row[0] for row in cells] == ["1", "2", "3", "4", "5", "6"]
    assert cells[0][1:3] == ["dpo", "beta=0.1"]
    assert {row[1] for row in cells} == {"dpo", "sft"}


def test_work_is_counted_and_time_is_shared_among_the_workers(
    llama_folder: Path, pairs_file: Path
) -> None:
    text = "\n".join(shown(llama_folder, pairs_file, workers=2))
    (pairs,) = map(int, re.findall(r"Training pairs: (\d+)\.", text))
    assert f"Training: 10 steps of 16 pairs ({160 / pairs:.2g} passes over the pairs)" in text
    parameters = sum(p.numel() for p in load_model(llama_folder, "cpu").parameters())
    assert f"Model: {parameters:,} parameters" in text
    assert "workers: 2." in text
    assert re.search(r"Time: about .* a trial and .* in all", text)


def test_pairs_are_shown_as_the_model_reads_them(llama_folder: Path, pairs_file: Path) -> None:
    lines = shown(llama_folder, pairs_file)
    first = next(i for i, line in enumerate(lines) if line.startswith("Pair 1, as it is trained"))
    assert "\u23ceAnswer:\u2503 Yes, " in lines[first + 1]
    assert lines[first + 2].startswith("  rejected  ...\u2503 No, ")
    assert sum(line.startswith("Pair ") for line in lines) == 3


def test_a_loss_that_needs_what_the_data_lacks_is_refused(
    llama_folder: Path, pairs_file: Path
) -> None:
    with pytest.raises(DataError, match="odpo needs a margin for each pair"):
        shown(llama_folder, pairs_file, losses=["odpo"])


def test_long_texts_lose_their_middle_and_nothing_unprintable_is_shown() -> None:
    assert _short("a\nb\rc\x07d") == "a\u23ceb\u240dc\ufffdd"
    fits = "x" * (2 * SHOWN + 5)
    assert _short(fits) == fits
    assert _short(f"{fits}y") == f"{'x' * SHOWN} ... {'x' * (SHOWN - 1)}y"
    assert _short("b" * 1000) == f"{'b' * SHOWN} ... {'b' * SHOWN}"
