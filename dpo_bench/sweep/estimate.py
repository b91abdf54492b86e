"""``--dry-run``: the trials, how long they may take, and what a judge of them is asked."""

from __future__ import annotations

import json
import math
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dpo_bench.data.sources import read_rows
from dpo_bench.errors import DpoBenchError
from dpo_bench.experiment import Experiment, Trial, plan_trials
from dpo_bench.model.files import base_of_adapter, is_adapter
from dpo_bench.model.source import WORLD
from dpo_bench.sweep.judging import (
    CHARACTERS_PER_TOKEN,
    count_questions,
    describe_cost,
    describe_questions,
)
from dpo_bench.sweep.machines import available_cpus
from dpo_bench.threads import one_thread
from dpo_bench.training.trainer import number_of_steps

WORLD_PARAMETERS, WORLD_PROMPT, WORLD_RESPONSE = 61_000, 12.0, 16.0
SECONDS_PER_PASS = 0.004
"""What a forward or backward pass costs on a CPU however small the model is."""
EFFICIENCY = 0.5
"""Share of a plain matrix product's speed that a whole pass reaches."""


@dataclass(frozen=True, slots=True)
class Size:
    """What the time depends on.

    Attributes:
        parameters: of the model.
        prompt: mean tokens of a prompt.
        response: mean tokens of a response.
        pairs: training pairs.
    """

    parameters: int
    prompt: float
    response: float
    pairs: int


def print_plan(experiment: Experiment, workers: int | None, console: Console) -> None:
    """Print the trials, an estimate of the time they take here, and of what judging them takes."""
    trials = plan_trials(experiment)
    table = Table(title=f"{experiment.name}: {len(trials)} trials", title_justify="left")
    for heading in ("", "loss", "hyperparameters", "seed"):
        table.add_column(heading)
    for number, trial in enumerate(trials, start=1):
        table.add_row(str(number), escape(trial.loss), _values(trial), str(trial.seed))
    console.print(table)
    console.print(f"policy {experiment.policy}, preferences {experiment.preferences}", markup=False)
    size = measure(experiment)
    _print_judging(experiment, len(trials), size, console)
    if size is None:
        console.print("No estimate of the time: the model or the data is not on this machine yet.")
        return
    seconds = estimate(experiment, size, matrix_speed())
    count = workers or min(available_cpus(), len(trials))
    total = seconds * math.ceil(len(trials) / count)
    steps = number_of_steps(experiment.training, size.pairs)
    console.print(
        f"{steps} steps of {experiment.training.pairs_per_step} pairs a trial; about "
        f"{_time(seconds)} a trial and {_time(total)} in all on {count} CPU workers "
        "(an estimate, good to a factor of two or three)."
    )


def _print_judging(
    experiment: Experiment, trials: int, size: Size | None, console: Console
) -> None:
    options = experiment.evaluation
    if options.reward.partition(":")[0] != "judge":
        return
    times = evaluations(experiment, size.pairs if size else None)
    if times is None:
        console.print(
            "No estimate of the judging: how often a trial is evaluated depends on data that is "
            "not on this machine yet."
        )
        return
    console.print(describe_questions(options, trials, times), markup=False, soft_wrap=True)
    if size is not None:
        questions = count_questions(options, trials, times).total
        cost = describe_cost(options, questions, size.prompt, size.response)
        console.print(cost, markup=False, soft_wrap=True)


def evaluations(experiment: Experiment, pairs: int | None) -> int | None:
    """How often a trial is evaluated; None where that depends on an unknown number of pairs."""
    training, every = experiment.training, experiment.evaluation.every
    if not every:
        return 1
    if pairs is None and training.steps is None:
        return None
    return 1 + (number_of_steps(training, pairs or 0) - 1) // every


def estimate(experiment: Experiment, size: Size, speed: float) -> float:
    """Seconds of one trial on one CPU core.

    Args:
        experiment: the configuration.
        size: of model and data.
        speed: of a matrix product, floating-point operations per second.
    """
    training, evaluation = experiment.training, experiment.evaluation
    # A pass forward costs 2 operations per parameter and token; training adds 4 backward. Frozen
    # weights need 2 of them, but an adapter has passes of its own: see docs/lora.md for both.
    passes = 2.6 if training.lora else 3
    cost = 2 * size.parameters / (EFFICIENCY * speed)
    pair_tokens = 2 * (size.prompt + size.response)
    step = passes * cost * pair_tokens * training.pairs_per_step + 4 * SECONDS_PER_PASS
    responses = evaluation.prompts * evaluation.samples_per_prompt
    # The longest response of a batch sets its number of passes: nearly always the limit.
    batches = math.ceil(responses / evaluation.rows_per_batch)
    sampling = cost * responses * (size.prompt + size.response)
    sampling += batches * evaluation.max_new_tokens * SECONDS_PER_PASS
    scoring = 2 * cost * responses * (size.prompt + size.response)
    heldout = cost * evaluation.prompts * pair_tokens
    steps = number_of_steps(training, size.pairs)
    times = evaluations(experiment, size.pairs) or 1
    return steps * step + times * (sampling + scoring + heldout)


def measure(experiment: Experiment) -> Size | None:
    """Sizes of model and data, from what is on this machine; None when something is not."""
    parameters = _parameters(experiment.policy)
    if experiment.preferences.startswith(WORLD):
        prompt, response, pairs = WORLD_PROMPT, WORLD_RESPONSE, experiment.world.pairs
    else:
        source = Path(experiment.preferences).expanduser()
        if not source.exists():
            return None
        try:
            rows = list(read_rows(str(source), experiment.data.split).records)
        except DpoBenchError:
            return None
        data = experiment.data
        prompt = _tokens([row.get(data.prompt_column, "") for row in rows])
        response = _tokens([row.get(data.chosen_column, "") for row in rows])
        pairs = min(len(rows), data.pairs or len(rows))
    return None if parameters is None else Size(parameters, prompt, response, pairs)


def _parameters(policy: str) -> int | None:
    if policy.startswith(WORLD):
        return WORLD_PARAMETERS
    folder = Path(policy).expanduser()
    if is_adapter(folder):
        return _parameters(base_of_adapter(folder))
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return sum(_elements(file) for file in files) or None


def _elements(file: Path) -> int:
    """Number of weights, from a safetensors file's header."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(
        math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
    )


def _tokens(texts: list[object]) -> float:
    return sum(len(str(text)) for text in texts) / max(1, len(texts)) / CHARACTERS_PER_TOKEN


def matrix_speed() -> float:
    """Floating-point operations per second of one core in a small matrix product."""
    import torch

    left, right = torch.rand(512, 64), torch.rand(64, 512)
    rounds = 200
    with one_thread():
        torch.mm(left, right)
        started = time.perf_counter()
        for _ in range(rounds):
            torch.mm(left, right)
        spent = time.perf_counter() - started
    return rounds * 2 * 512 * 64 * 512 / spent


def _values(trial: Trial) -> str:
    return " ".join(f"{name}={value:g}" for name, value in trial.hyperparameters)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
