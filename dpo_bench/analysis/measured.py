"""A figure with its interval, as it stands in a sweep's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure of one trial.

    Attributes:
        value: the figure, None when it was not measured.
        low: lower end of its 95% interval, None when there is none.
        high: upper end.
        n: number of prompts or pairs behind it, None when unknown.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None


NOTHING = Measured(None)


def finite(value: Any) -> float | None:
    """A number, or None for anything that is none (missing, NaN, infinite, text)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def measured_from(found: Mapping[str, Any]) -> Measured:
    """A figure from ``{"value", "low", "high", "n"}``; NOTHING where it has no value."""
    value = finite(found.get("value"))
    if value is None:
        return NOTHING
    n = finite(found.get("n"))
    low, high = finite(found.get("low")), finite(found.get("high"))
    return Measured(value, low, high, None if n is None else int(n))
