"""From an experiment to its trials, each with an identity that covers what changes its result."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dpo_bench.contract import Loss, get_loss, source_digest
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import OWN_KEYS, Experiment, LossGrid, Training, Value
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
        training: keys of ``[training]`` that it has a value of its own of, in alphabetical order.
    """

    loss: str
    hyperparameters: tuple[tuple[str, float], ...]
    strength: float | None
    seed: int
    training: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """Short text for people, e.g. ``cdpo beta=0.1 label_smoothing=0.2 seed=0``."""
        return f"{self.setting_label} seed={self.seed}"

    @property
    def setting_label(self) -> str:
        """The same without the seed."""
        values = [f"{name}={value:g}" for name, value in self.hyperparameters]
        own = [f"{key}={_plain(value)}" for key, value in self.training]
        return " ".join([self.loss, *values, *own])

    def settings(self, training: Training) -> Training:
        """What it trains with: the sweep's ``[training]``, its own values over it.

        Raises:
            ConfigurationError: they do not go together, or one is out of range.
        """
        return with_own_values(training, dict(self.training), self.loss)


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
    """All trials of given strengths: losses x each loss's values x seeds, in the order of the file.

    Raises:
        ConfigurationError: an unknown loss, hyperparameter or key of training, a value out of
            range, a trial that is asked for twice, or a plug-in's loss that breaks the contract.
    """
    require_contract(get_loss(grid.name) for grid in experiment.losses)
    trials: list[PlannedTrial] = []
    for grid in experiment.losses:
        loss = get_loss(grid.name)
        for values in _settings(loss, grid):
            trials += [
                planned(loss, values, seed, experiment.training)
                for seed in experiment.training.seeds
            ]
    for first, second in itertools.pairwise(sorted(trials, key=lambda trial: trial.label)):
        if first == second:
            raise ConfigurationError(f"{first.label} is asked for twice.")
    return trials


def planned(loss: Loss, values: Mapping[str, Any], seed: int, training: Training) -> PlannedTrial:
    """A trial of a loss at values of hyperparameters and of keys of ``[training]``.

    Args:
        loss: the loss.
        values: by name; a hyperparameter that is left out takes its default.
        seed: of the trial.
        training: the sweep's; a value that is the same there is no value of the trial's own.

    Raises:
        ConfigurationError: an unknown name, or a value out of range.
    """
    own = {key: value for key, value in values.items() if _is_of_training(loss, key)}
    hyperparameters = loss.resolve({key: one for key, one in values.items() if key not in own})
    strength = hyperparameters[loss.strength] if loss.strength else None
    whole = with_own_values(training, own, loss.name)
    differing = [key for key in own if getattr(whole, key) != getattr(training, key)]
    return PlannedTrial(
        loss.name,
        tuple(hyperparameters.items()),
        strength,
        seed,
        tuple((key, getattr(whole, key)) for key in sorted(differing)),
    )


def _is_of_training(loss: Loss, key: str) -> bool:
    """Whether a key of a loss's table is one of ``[training]``, and may be.

    Raises:
        ConfigurationError: it is, and is decided before any trial.
    """
    if key in loss.hyperparameters or key not in Training.model_fields:
        return False
    if key not in OWN_KEYS:
        raise ConfigurationError(
            f"{loss.name}: training.{key} holds for a whole sweep; a loss may have its own"
            f" {', '.join(OWN_KEYS)}."
        )
    return True


def with_own_values(training: Training, own: Mapping[str, Any], loss: str) -> Training:
    """``[training]`` with a trial's own values put in.

    Raises:
        ConfigurationError: they do not go together, or one is out of range.
    """
    if not own:
        return training
    if own.get("learning_rate") == "auto":
        raise ConfigurationError(f"{loss}: learning_rate: auto is for [training]; give a number.")
    given = training.model_dump()
    if ("steps" in own) != ("epochs" in own):
        given |= {"steps": None, "epochs": None}  # one replaces the other
    try:
        return Training.model_validate({**given, **own})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its values of training"
        raise ConfigurationError(
            f"{loss}: {where}: {str(first['msg']).removeprefix('Value error, ')}."
        ) from None


def _settings(loss: Loss, grid: LossGrid) -> Iterator[dict[str, Value]]:
    """The product of the given values; the loss's own grid where its strength is not given.

    Values of keys that are zipped go together.
    """
    values: dict[str, tuple[Value, ...]] = dict(grid.values)
    for name, given in values.items():
        if not given:
            raise ConfigurationError(f"{loss.name}: {name} has an empty list of values.")
    if loss.strength and loss.strength not in values and loss.grid:
        values[loss.strength] = loss.grid
    axes = [
        [{name: one} for one in given] for name, given in values.items() if name not in grid.zip
    ]
    if grid.zip:
        axes.append(_zipped(loss, {name: values.get(name, ()) for name in grid.zip}))
    for combination in itertools.product(*axes):
        yield {name: one for part in combination for name, one in part.items()}


def _zipped(loss: Loss, values: Mapping[str, tuple[Value, ...]]) -> list[dict[str, Value]]:
    sizes = {name: len(given) for name, given in values.items()}
    if len(set(sizes.values())) != 1 or not all(sizes.values()):
        told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ConfigurationError(
            f"{loss.name}: zip: {told}: what goes together has equally many values."
        )
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def conditions(experiment: Experiment, content: Content) -> dict[str, Any]:
    """Everything that the trials of a sweep share; two sweeps compare when theirs are equal.

    All keys but those that are marked as having no effect, as standing in the content, or as what a
    sweep varies.
    """
    shared = without(type(experiment), experiment.settings(), NO_EFFECT, DIGESTED, VARIED)
    return {"recipe": RECIPE, **shared, "content": dataclasses.asdict(content)}


def trial_id(trial: PlannedTrial, shared: Mapping[str, Any]) -> str:
    """A trial's identity: 16 hex digits of a SHA-256.

    It covers the shared conditions, its own values of training put in, the loss with its source,
    its hyperparameters and the seed; no path, no time, no name of an experiment.
    """
    return digest(
        {
            "conditions": own_conditions(trial, shared),
            "loss": trial.loss,
            "source": source_digest(get_loss(trial.loss)),
            "hyperparameters": dict(trial.hyperparameters),
            "seed": trial.seed,
        }
    )[:16]


def own_conditions(trial: PlannedTrial, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions that a trial is trained under, as a sweep of its own would state them."""
    training = {**shared["training"], **dict(trial.training)}
    if "steps" in dict(trial.training):
        training["epochs"] = None
    elif "epochs" in dict(trial.training):
        training["steps"] = None
    return {**shared, "training": training}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
