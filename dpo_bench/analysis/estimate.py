"""A number with its interval: the one class for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its interval and the number of clusters (prompts) behind it.

    Attributes:
        value: the estimate, NaN when it is missing.
        low: lower end of the interval, NaN when there is none (a single cluster).
        high: upper end of the interval.
        n: number of clusters; 0 when it is not known.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    @classmethod
    def missing(cls, n: int = 0) -> Estimate:
        """A figure that could not be had: NaN throughout, never 0."""
        return cls(math.nan, math.nan, math.nan, n)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Estimate:
        """What `as_dict` gave, as it comes back from JSON; missing where it has no value.

        >>> Estimate.read({"value": 0.5, "low": None, "high": None, "n": 1})
        Estimate(value=0.5, low=nan, high=nan, n=1)
        """
        value = finite(fields.get("value"))
        if value is None:
            return cls.missing()
        ends = (finite(fields.get(name)) for name in ("low", "high"))
        low, high = (math.nan if end is None else end for end in ends)
        return cls(value, low, high, int(finite(fields.get("n")) or 0))

    @property
    def is_missing(self) -> bool:
        """Whether there is no value."""
        return math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether there are ends: a flag, or a single cluster, has none."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def as_dict(self) -> dict[str, float | int | None]:
        """The four fields for JSON; NaN becomes None.

        >>> Estimate(0.5, 0.25, 0.75, 8).as_dict()
        {'value': 0.5, 'low': 0.25, 'high': 0.75, 'n': 8}
        >>> Estimate.missing().as_dict()
        {'value': None, 'low': None, 'high': None, 'n': 0}
        """
        return {
            key: None if isinstance(field, float) and math.isnan(field) else field
            for key, field in asdict(self).items()
        }


def finite(value: Any) -> float | None:
    """A number, or None for anything that is none (missing, NaN, infinite, text)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
