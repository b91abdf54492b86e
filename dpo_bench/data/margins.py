"""How much better the preferred response is, where the data says so in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_reward", "rejected_reward"),
    ("reward_chosen", "reward_rejected"),
)
"""Columns of two scores whose difference is the margin, where no column gives it."""


@dataclass(frozen=True, slots=True)
class Margin:
    """Where the margins of some rows come from.

    Attributes:
        columns: one column, or two to be subtracted; empty: there are none.
    """

    columns: tuple[str, ...]

    @classmethod
    def of(cls, column: str, columns: Sequence[str], *, is_default: bool) -> Margin:
        """The column that the options name; where it is theirs by default, the scores also do."""
        if column in columns:
            return cls((column,))
        if not is_default:
            return cls(())
        return cls(next((two for two in SCORES if set(two) <= set(columns)), ()))

    @property
    def description(self) -> str:
        """Where they come from, for people; empty: there are none."""
        return f"margin: {' - '.join(self.columns)}" if self.columns else ""

    def value(self, row: Mapping[str, Any]) -> float | None:
        """The margin of a row, or None: whether it needs one is for a loss to say."""
        numbers = [as_number(row.get(column)) for column in self.columns]
        if not numbers or any(number is None for number in numbers):
            return None
        first, *second = (number for number in numbers if number is not None)
        return first - second[0] if second else first


def as_number(value: Any) -> float | None:
    """A finite number, also one that a CSV file spells as text; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
