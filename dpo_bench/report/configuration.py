"""The experiment that a report is about, and its settings in words."""

from __future__ import annotations

from typing import Any

from dpo_bench.analysis.results import EXPERIMENT, SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.config import LoRA, Training
from dpo_bench.experiment.read import validate_record
from dpo_bench.wording import counted, plain_number


def read_experiment(results: SweepResults) -> Experiment | None:
    """The experiment of these results; None where they come from elsewhere and have none.

    Raises:
        ConfigurationError: it is of another version of the program, and no experiment of this one.
    """
    if not results.experiment:
        return None
    made_by = str(results.versions.get("dpo_bench", ""))
    return validate_record(results.experiment, results.folder / EXPERIMENT, made_by)


def length_in_words(training: Training, otherwise: str) -> str:
    """How long it trained: steps, or passes over the pairs.

    Args:
        training: the trainer's settings.
        otherwise: what is said where neither is given.
    """
    if training.steps:
        return counted(training.steps, "step")
    if not training.epochs:
        return otherwise
    return f"{plain_number(training.epochs)} {'epoch' if training.epochs == 1 else 'epochs'}"


def adapter_in_words(lora: LoRA) -> str:
    """What a LoRA experiment trains, for the setup and the methods."""
    scaling = "alpha / sqrt(rank)" if lora.rslora else "alpha / rank"
    everywhere = lora.target_modules == "all-linear"
    return (
        f"a LoRA adapter of rank {lora.rank}, alpha {spelled(lora.alpha)}"
        f" (scaled by {scaling}), on"
        f" {'all linear layers' if everywhere else spelled(lora.target_modules)}"
    )


def spelled(value: Any) -> str:
    """A setting's value in words."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return plain_number(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(spelled, value))
    return str(value)
