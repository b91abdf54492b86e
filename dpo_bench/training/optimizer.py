"""The optimizer and its learning rate."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch.nn import LayerNorm, Module, Parameter
from torch.optim import Optimizer

from dpo_bench.experiment.config import Training

SPARED = re.compile(r"bias|layernorm|rmsnorm|_norm(?:$|\.)|(?:^|\.)norm(?:$|\.)")
"""Names, in lower case, of parameters that do not decay; the rule of transformers' trainer."""


def build_optimizer(
    model: Module, settings: Training, masters: Mapping[str, Parameter] | None = None
) -> Optimizer:
    """AdamW with torch's defaults (betas .9 and .999), or RMSprop as the DPO paper trains.

    Weight decay spares biases and the weights of norms, as transformers' trainer does.

    Args:
        model: whose parameters are optimized, but for those that are frozen.
        settings: the trainer's.
        masters: what is optimized in the place of parameters of these names.
    """
    spared = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, LayerNorm)
        for parameter in module.parameters()
    }
    decaying: list[Parameter] = []
    others: list[Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spare = id(parameter) in spared or SPARED.search(name.lower())
            one = (masters or {}).get(name, parameter)
            (others if spare else decaying).append(one)
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decaying, settings.weight_decay), (others, 0.0))
        if parameters
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.peak_rate, fused=True)
    return torch.optim.RMSprop(groups, lr=settings.peak_rate)


def moments(optimizer: Optimizer) -> None:
    """Have an optimizer make the tensors of its state, as it does at its first step."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    before = [group["lr"] for group in optimizer.param_groups]
    for one in parameters:
        one.grad = torch.zeros_like(one)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # nothing moves
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, before, strict=True):
        group["lr"] = rate


def learning_rate(step: int, steps: int, settings: Training) -> float:
    """Learning rate of a step (counted from 0) of a run of ``steps``.

    It rises linearly over the warm-up, reaches the peak at its end, then follows the schedule,
    which would be zero one step after the last.
    """
    warmup = round(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.peak_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if settings.schedule == "linear":
        return settings.peak_rate * (1 - progress)
    if settings.schedule == "cosine":
        return settings.peak_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.peak_rate
