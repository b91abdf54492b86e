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


def test_values_of_training_of_a_trials_own_are_listed_and_cost_their_time(
    llama_folder: Path, pairs_file: Path
) -> None:
    losses = [{"name": "sft"}, {"name": "dpo", "beta": 0.1, "steps": [10, 4000]}]
    lines = shown(llama_folder, pairs_file, losses=losses)
    cells = [re.split(r"\s*│\s*", line.strip("│ ")) for line in lines if line.startswith("│")]
    assert {row[2] for row in cells} == {"", "beta=0.1", "beta=0.1 steps=4000"}
    assert any("; some trials have values of their own." in line for line in lines)
    (long,) = re.findall(r"Time: about (\d+) (?:s|min) a trial", "\n".join(lines))
    plain = "\n".join(shown(llama_folder, pairs_file, losses=losses[:1]))
    (short,) = re.findall(r"Time: about (\d+) s a trial", plain)
    # A third of the trials has 4000 steps, each of at least 16 ms.
    assert float(long) > float(short) + 15 or float(long) * 60 > float(short) + 15


SEARCH: dict[str, Any] = {
    "losses": [{"name": "simpo"}, {"name": "cdpo", "label_smoothing": 0.2}, {"name": "sft"}],
    "search": {"kl": [0.5, 2.0], "seeds": [2, 4], "trials_per_loss": 8},
}


def test_a_search_says_what_it_seeks_and_how_many_trials_that_takes(
    llama_folder: Path, pairs_file: Path
) -> None:
    changes: dict[str, Any] = {**SEARCH, "training": {"steps": 10, "learning_rate": 0.002}}
    lines = shown(llama_folder, pairs_file, workers=2, **changes)
    text = "\n".join(lines)
    # Two KLs met at once by each loss, twice; else 8 trials each before they are repeated.
    found = re.search(r"plan: a search of (\d+) to (\d+) trials", text)
    assert found
    assert int(found[1]) == 3 * 2 * 2
    assert int(found[2]) >= 3 * (8 + 2 * 3)
    cells = [re.split(r"\s*│\s*", line.strip("│ ")) for line in lines if line.startswith("│")]
    kept = {row[0]: row[1] for row in cells}
    assert kept == {"simpo": "", "cdpo": "label_smoothing=0.2", "sft": ""}
    axes = {row[0]: row[-1] for row in cells}
    assert re.fullmatch(r"beta from .*, then learning_rate from 0\.002", axes["simpo"])
    assert axes["sft"] == "learning_rate from 0.002"
    assert "Sought: policies at KL 0.5, 2 nats, each within 10%." in text
    assert "Seeds: what is found with seed 0 is repeated with others" in text
    assert "comparisons with simpo are looked at when there are 2, 4 seeds in all." in text
    assert "Budget: at most 8 trials of the search for each loss; trials far beyond" in text
    assert re.search(r"Time: about .* a trial and .* to .* in all", text)


def test_a_search_whose_learning_rate_is_still_to_be_chosen_is_shown_as_well(
    llama_folder: Path, pairs_file: Path
) -> None:
    rates = {**SEARCH["search"], "learning_rates": [0.001, 0.003], "trials": 30, "hours": 2}
    changes: dict[str, Any] = {"losses": SEARCH["losses"], "training": {"steps": 10}}
    text = "\n".join(shown(llama_folder, pairs_file, **changes, search=rates))
    assert "learning_rate from auto" in text, "of sft, which has nothing else"
    assert "every loss is searched at each of 0.001, 0.003; one is chosen." in text
    assert "for each loss and learning rate, 30 trials in all, 2 hours;" in text


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
