"""Settings that are chosen when the size of the model is known."""

from __future__ import annotations

import logging
import math

from dpo_bench.experiment.config import Experiment

log = logging.getLogger(__name__)

USUAL_RATE, USUAL_PARAMETERS = 1e-6, 7e9
"""What DPO is usually trained with, all weights of a model of this size."""
LORA_FACTOR = 20.0
"""An adapter wants a learning rate about so much higher; docs/lora.md."""
LEAST, MOST = 5e-7, 3e-3


def settled(experiment: Experiment, parameters: int) -> Experiment:
    """The experiment with every ``auto`` that changes a result replaced by a value.

    Args:
        experiment: as asked for.
        parameters: of the policy.
    """
    training = experiment.training
    if training.learning_rate != "auto":
        return experiment
    rate = suggested_rate(parameters, lora=training.lora is not None)
    log.info(
        "training.learning_rate = auto is %g for a model of %s parameters: a rate at which most "
        "losses move, tuned for none",
        rate,
        f"{parameters:,}",
    )
    chosen = training.model_copy(update={"learning_rate": rate})
    return experiment.model_copy(update={"training": chosen})


def with_some_rate(experiment: Experiment) -> Experiment:
    """The experiment with some learning rate where it is ``auto``: to check all else beforehand."""
    if experiment.training.learning_rate != "auto":
        return experiment
    training = experiment.training.model_copy(update={"learning_rate": 1e-4})
    return experiment.model_copy(update={"training": training})


def suggested_rate(parameters: int, *, lora: bool) -> float:
    """A peak learning rate for a model of so many parameters, to one digit.

    It falls with the square root of the size, from what is usual at 7 billion.

    >>> suggested_rate(7_000_000_000, lora=False), suggested_rate(135_000_000, lora=True)
    (1e-06, 0.0001)

    Args:
        parameters: of the model.
        lora: whether an adapter is trained.
    """
    rate = USUAL_RATE * math.sqrt(USUAL_PARAMETERS / max(parameters, 1))
    rate *= LORA_FACTOR if lora else 1.0
    return float(f"{min(MOST, max(LEAST, rate)):.0e}")
