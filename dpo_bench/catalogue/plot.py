"""Losses drawn against the margin: value and gradient, in the terminal or in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_bench.contract import Loss, PairLogps, get_loss
from dpo_bench.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

REACH = 20.0
"""Nats: the margin runs from minus this to plus this."""
POINTS = 201
TOKENS = 10
"""Tokens of each response, of which a loss that divides by them makes use."""
REFERENCE_LOGP = -20.0
"""Nats: log-prob of both responses under the reference."""
MARKS = "ox+*#@%&"
SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True)
class Curve:
    """One loss along the margin.

    Attributes:
        label: its name with the strength that it is drawn at.
        margin: of the pair, nats.
        value: the loss of the pair.
        slope: its derivative in the margin, per nat.
    """

    label: str
    margin: tuple[float, ...]
    value: tuple[float, ...]
    slope: tuple[float, ...]


def curves(names: Sequence[str], hyperparameters: Mapping[str, float] | None = None) -> list[Curve]:
    """Curves of losses at their defaults, or at the given values of what they have.

    The margin is shared evenly: the chosen log-ratio is half of it, the rejected one minus half.
    What a loss needs beyond that stands at neutral values: margin of the data 0, confidence 0, no
    KL, no mismatched and no mean log-ratio. A batch-coupled loss sees batches of one pair.

    Raises:
        ConfigurationError: an unknown loss, or a value that it cannot take.
    """
    return [_curve(get_loss(name), hyperparameters or {}) for name in names]


def _curve(loss: Loss, given: Mapping[str, float]) -> Curve:
    import torch

    values = loss.resolve({name: v for name, v in given.items() if name in loss.hyperparameters})
    margin = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64).requires_grad_()
    if loss.batch_coupled:
        alone = [loss(_pairs(margin[at : at + 1]), **values) for at in range(POINTS)]
        losses = torch.cat(alone)
    else:
        losses = loss(_pairs(margin), **values)
    (slope,) = torch.autograd.grad(losses.sum(), margin)
    label = f"{loss.name} {loss.strength}={values[loss.strength]:g}" if loss.strength else loss.name
    return Curve(label, *(tuple(column.tolist()) for column in (margin, losses, slope)))


def _pairs(margin: Tensor) -> PairLogps:
    import torch

    zero = torch.zeros_like(margin)
    reference, tokens = zero + REFERENCE_LOGP, zero + TOKENS
    chosen, rejected = reference + margin / 2, reference - margin / 2
    pairs = PairLogps(chosen, rejected, reference, reference, tokens, tokens)
    return replace(
        pairs,
        preference_margin=zero,
        policy_chosen_shared=chosen,
        policy_rejected_shared=rejected,
        reference_chosen_shared=reference,
        reference_rejected_shared=reference,
        chosen_confidence=zero,
        rejected_confidence=zero,
        chosen_kl=zero,
        rejected_kl=zero,
        mismatched_logratio=zero,
        mean_logratio=zero,
    )


def terminal_plot(drawn: Sequence[Curve], width: int = 72, height: int = 16) -> str:
    """Value and gradient of the curves as text, one picture under the other."""
    legend = "  ".join(f"{MARKS[i % len(MARKS)]} {c.label}" for i, c in enumerate(drawn))
    value = _picture("loss of a pair", [(c.margin, c.value) for c in drawn], width, height)
    slope = _picture("gradient per nat", [(c.margin, c.slope) for c in drawn], width, height)
    return "\n".join([legend, "", *value, "", *slope])


def _picture(
    title: str,
    lines: Sequence[tuple[Sequence[float], Sequence[float]]],
    width: int,
    height: int,
) -> list[str]:
    every = [y for _, ys in lines for y in ys]
    low, high = min(every), max(every)
    if math.isclose(low, high):
        low, high = low - 1, high + 1
    grid = [[" "] * width for _ in range(height)]
    for number, (xs, ys) in enumerate(lines):
        for x, y in zip(xs, ys, strict=True):
            column = round((x + REACH) / (2 * REACH) * (width - 1))
            row = round((high - y) / (high - low) * (height - 1))
            grid[row][column] = MARKS[number % len(MARKS)]
    labels = [f"{high:10.4g}", *[" " * 10] * (height - 2), f"{low:10.4g}"]
    body = [f"{label} |{''.join(row).rstrip()}" for label, row in zip(labels, grid, strict=True)]
    left, right = f"{-REACH:g}", f"{REACH:g} nats"
    middle = "margin 0"
    gap = width - len(left) - len(right) - len(middle)
    ruler = left + " " * (gap // 2) + middle + " " * (gap - gap // 2) + right
    return [title, *body, f"{' ' * 11}+{'-' * width}", f"{' ' * 12}{ruler}"]


def save_plot(drawn: Sequence[Curve], file: Path) -> None:
    """Draw value and gradient side by side into a picture file.

    Raises:
        ConfigurationError: a kind of file that is not drawn.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(f"{file}: give a name that ends in {', '.join(SUFFIXES)}.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, title in zip(
        axes, ("loss of a pair", "gradient in the margin, per nat"), strict=True
    ):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("margin (nats)")
        axis.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    for curve in drawn:
        axes[0].plot(curve.margin, curve.value, label=curve.label)
        axes[1].plot(curve.margin, curve.slope)
    axes[0].legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
