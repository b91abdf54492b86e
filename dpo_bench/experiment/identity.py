"""From an experiment to its trials, each with an identity that covers what changes its result."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dpo_bench.contract import Loss, get_loss, source_digest
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import Experiment, LossGrid
from dpo_bench.experiment.contract_check import require_contract
from dpo_bench.experiment.fields import DIGESTED, NO_EFFECT, VARIED, without
from dpo_bench.storage import digest

RECIPE = 3
"""Raised by whoever changes what a trial computes, so that older results are not taken for new."""


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """One cell of a sweep.

    Attributes:
        loss: canonical name of the loss.
        hyperparameters: all of them, defaults included, as (name, value) in the loss's order.
        strength: the loss's own strength (usually beta; IPO's tau), or None when it has none.
        seed: sets the order of the pairs, and which are drawn where they are resampled; nothing
            that depends on the loss.
    """

    loss: str
    hyperparameters: tuple[tuple[str, float], ...]
    strength: float | None
    seed: int

    @property
    def label(self) -> str:
        """Short text for people, e.g. ``cdpo beta=0.1 label_smoothing=0.2 seed=0``."""
        values = [f"{name}={value:g}" for name, value in self.hyperparameters]
        return " ".join([self.loss, *values, f"seed={self.seed}"])


@dataclass(frozen=True, slots=True)
class Content:
    """Digests (SHA-256, hex) of everything outside the configuration that a result depends on.

    Attributes:
        policy: weights, configuration and tokenizer of the policy's starting point.
        reference: the same of the reference.
        data: the preference pairs as validated, in their order, and the limits that cut them.
        reward: what scores or judges the responses; see `Reward.identity` and `Judge.identity`.
        device: what the trials run on, e.g. ``cpu/fp32``.
    """

    policy: str
    reference: str
    data: str
    reward: str
    device: str


def plan_trials(experiment: Experiment) -> list[PlannedTrial]:
    """All trials: losses x each loss's grid x seeds, in the order of the file.

    Raises:
        ConfigurationError: an unknown loss or hyperparameter, a value out of range, a trial that
            is asked for twice, or a plug-in's loss that breaks the contract.
    """
    require_contract(get_loss(grid.name) for grid in experiment.losses)
    trials: list[PlannedTrial] = []
    for grid in experiment.losses:
        loss = get_loss(grid.name)
        for hyperparameters in _settings(loss, grid):
            strength = hyperparameters[loss.strength] if loss.strength else None
            items = tuple(hyperparameters.items())
            trials += [
                PlannedTrial(loss.name, items, strength, seed) for seed in experiment.training.seeds
            ]
    for first, second in itertools.pairwise(sorted(trials, key=lambda trial: trial.label)):
        if first == second:
            raise ConfigurationError(f"{first.label} is asked for twice.")
    return trials


def _settings(loss: Loss, grid: LossGrid) -> Iterator[dict[str, float]]:
    """The product of the given values; the loss's own grid where its strength is not given."""
    values = dict(grid.values)
    for name, given in values.items():
        if not given:
            raise ConfigurationError(f"{loss.name}: {name} has an empty list of values.")
    if loss.strength and loss.strength not in values and loss.grid:
        values[loss.strength] = loss.grid
    for combination in itertools.product(*values.values()):
        yield loss.resolve(dict(zip(values, combination, strict=True)))


def conditions(experiment: Experiment, content: Content) -> dict[str, Any]:
    """Everything that the trials of a sweep share; two sweeps compare when theirs are equal.

    All keys but those that are marked as having no effect, as standing in the content, or as what a
    sweep varies.
    """
    shared = without(type(experiment), experiment.settings(), NO_EFFECT, DIGESTED, VARIED)
    return {"recipe": RECIPE, **shared, "content": dataclasses.asdict(content)}


def trial_id(trial: PlannedTrial, shared: Mapping[str, Any]) -> str:
    """A trial's identity: 16 hex digits of a SHA-256.

    It covers the shared conditions, the loss with its source, its hyperparameters and the seed; no
    path, no time, no name of an experiment.
    """
    return digest(
        {
            "conditions": shared,
            "loss": trial.loss,
            "source": source_digest(get_loss(trial.loss)),
            "hyperparameters": dict(trial.hyperparameters),
            "seed": trial.seed,
        }
    )[:16]
