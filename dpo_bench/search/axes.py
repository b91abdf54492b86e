"""What a search may vary of a loss: its hyperparameters that move the KL, then keys of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from dpo_bench.contract import Loss, get_loss
from dpo_bench.contract.loss import Range
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import LossGrid, Search, Training

LEARNING_RATE, STEPS = "learning_rate", "steps"

_FACTOR = 1e4
"""how far beyond the values of its own grid a hyperparameter is taken"""
_OF_TRAINING = {LEARNING_RATE: (1 / 300, 30.0), STEPS: (1 / 8, 8.0)}
"""how far below and above the experiment's a key of training is taken"""
_NEAR_END = 1e-4
"""share of a bounded range that its ends are kept away from"""


@dataclass(frozen=True, slots=True)
class Axis:
    """One number that a search varies, on a scale on which equal steps are alike.

    The scale is logarithmic for what is positive, log-odds for what lies between two ends, and
    asinh for what may be 0 or negative.

    Attributes:
        name: hyperparameter, or key of ``[training]``.
        start: its default.
        first: values to look at before anything is known, ascending.
        low: least value that is tried.
        high: largest.
        scale: see above.
        ends: of the range, for log-odds.
        unit: where asinh bends.
        whole: whether it is a count.
        of_training: whether it is a key of training, and not the loss's own.
    """

    name: str
    start: float
    first: tuple[float, ...]
    low: float
    high: float
    scale: Literal["log", "odds", "asinh"] = "log"
    ends: tuple[float, float] = (0.0, 1.0)
    unit: float = 1.0
    whole: bool = False
    of_training: bool = False

    def place(self, value: float) -> float:
        """Where a value lies on the scale."""
        if self.scale == "log":
            return math.log(value)
        if self.scale == "odds":
            below, above = value - self.ends[0], self.ends[1] - value
            return math.log(below / above)
        return math.asinh(value / self.unit)

    def value(self, place: float) -> float:
        """The value at a place, within the limits, to three digits: people read it."""
        least, most = self.place(self.low), self.place(self.high)
        inside = min(max(place, least), most)
        if self.scale == "log":
            found = math.exp(inside)
        elif self.scale == "odds":
            share = 1 / (1 + math.exp(-inside))
            near = round_to(min(share, 1 - share))
            share = near if share < 1 - share else 1 - near
            return round(self.ends[0] + share * (self.ends[1] - self.ends[0]), 12)
        else:
            found = self.unit * math.sinh(inside)
        if self.whole:
            return float(max(1, round(found)))
        return round_to(found)


def round_to(value: float, digits: int = 3) -> float:
    """A number with so many significant digits.

    >>> round_to(0.123456), round_to(1234.5)
    (0.123, 1230.0)
    """
    return float(f"{value:.{digits}g}")


def axes_of(grid: LossGrid, search: Search, training: Training) -> list[Axis]:
    """The axes of one ``[[losses]]`` table, in the order in which they are tried.

    Raises:
        ConfigurationError: the table gives several values, which is a sweep of given strengths.
    """
    loss = get_loss(grid.name)
    for name, values in grid.values.items():
        if len(values) > 1:
            raise ConfigurationError(
                f"{loss.name}: {name} has several values, and [search] finds strengths: give one"
                " value, which is then kept, or leave [search] out."
            )
    own = [
        _of_training(name, training) if name in _OF_TRAINING else _of_hyperparameter(loss, name)
        for name in _own_axes(grid, loss, training)
    ]
    taken = {*grid.values, *grid.kl_by}
    keys = [key for key in search.extensions if key not in taken]
    if not own and not keys and search.learning_rates:
        keys = [LEARNING_RATE]  # nothing of its own to search with: its learning rate is searched
    return own + [_of_training(key, training) for key in keys if _is_set(training, key)]


def _own_axes(grid: LossGrid, loss: Loss, training: Training) -> list[str]:
    """What the table says that moves the KL, or else the loss, without what is kept at a value.

    Raises:
        ConfigurationError: it names something that cannot be searched.
    """
    keys = [key for key in _OF_TRAINING if _is_set(training, key)]
    for name in grid.kl_by:
        if name not in loss.hyperparameters and name not in keys:
            known = ", ".join([*loss.hyperparameters, *keys])
            raise ConfigurationError(
                f"{loss.name}: kl_by: {name} cannot be searched; what can is {known}."
            )
        if name in grid.values:
            raise ConfigurationError(f"{loss.name}: {name} is in kl_by and has a value: give one.")
    return list(grid.kl_by) or [name for name in loss.axes if name not in grid.values]


def _is_set(training: Training, key: str) -> bool:
    return getattr(training, key) is not None


def _of_hyperparameter(loss: Loss, name: str) -> Axis:
    allowed, start = loss.ranges[name], loss.hyperparameters[name]
    grid = sorted(loss.grid) if name == loss.strength and loss.grid else [start]
    first = (grid[1], grid[-2]) if len(grid) > 3 else tuple(grid)
    if math.isfinite(allowed.low) and math.isfinite(allowed.high) and allowed.high <= 1:
        return _bounded(name, start, first, allowed)
    least = min(grid)
    if least <= 0 or allowed.low < 0:
        unit = min((abs(one) for one in grid if one), default=1.0)
        limit = _FACTOR * max(map(abs, [*grid, unit]))
        low, high = max(allowed.low, -limit), min(allowed.high, limit)
        return Axis(name, start, first, low, high, "asinh", unit=unit)
    low = max(least / _FACTOR, allowed.low)
    return Axis(name, start, first, low, min(max(grid) * _FACTOR, allowed.high))


def _bounded(name: str, start: float, first: tuple[float, ...], allowed: Range) -> Axis:
    width = allowed.high - allowed.low
    low, high = allowed.low + _NEAR_END * width, allowed.high - _NEAR_END * width
    inside = tuple(dict.fromkeys(min(max(one, low), high) for one in first))
    ends = (allowed.low, allowed.high)
    return Axis(name, min(max(start, low), high), inside, low, high, "odds", ends)


def _of_training(key: str, training: Training) -> Axis:
    value: Any = training.peak_rate if key == LEARNING_RATE else getattr(training, key)
    below, above = _OF_TRAINING[key]
    return Axis(
        key,
        float(value),
        (float(value), min(3.0, above) * float(value)),
        float(value) * below,
        float(value) * above,
        whole=key == STEPS,
        of_training=True,
    )
