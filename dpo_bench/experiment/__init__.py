"""Experiment files and the trials they stand for."""

from dpo_bench.experiment.config import Experiment
from dpo_bench.experiment.identity import Content, PlannedTrial, conditions, plan_trials, trial_id
from dpo_bench.experiment.read import apply_setting, find_file, read_file, shipped, validate

__all__ = [
    "Content",
    "Experiment",
    "PlannedTrial",
    "apply_setting",
    "conditions",
    "find_file",
    "plan_trials",
    "read_file",
    "shipped",
    "trial_id",
    "validate",
]
