"""The experiment that a report is about."""

from __future__ import annotations

from typing import Any

from dpo_bench.analysis.results import EXPERIMENT, SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.read import validate_record
from dpo_bench.wording import plain_number


def read_experiment(results: SweepResults) -> Experiment | None:
    """The experiment of these results; None where they come from elsewhere and have none.

    Raises:
        ConfigurationError: it is of another version of the program, and no experiment of this one.
    """
    if not results.experiment:
        return None
    made_by = str(results.versions.get("dpo_bench", ""))
    return validate_record(results.experiment, results.folder / EXPERIMENT, made_by)


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
