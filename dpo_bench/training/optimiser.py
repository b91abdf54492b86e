"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from dpo_bench.experiment.config import Training


def build_optimiser(parameters: Iterable[Parameter], settings: Training) -> Optimizer:
    """AdamW with torch's defaults (betas .9 and .999), or RMSprop as the DPO paper trains."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(
            trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.RMSprop(
        trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def learning_rate(step: int, steps: int, settings: Training) -> float:
    """Learning rate of a step (counted from 0) of a run of ``steps``.

    It rises linearly over the warm-up, reaches the peak at its end, then follows the schedule,
    which would be zero one step after the last.
    """
    warmup = round(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - progress)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate
