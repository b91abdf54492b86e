"""What a paper's own n allows one to say of its win rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959964
"""97.5% quantile of the normal distribution"""
Z80 = 0.841621
"""80% quantile: the power that is asked for"""
EYE = 0.02
"""a share that was read off a figure by eye is known to this"""


def share_error(share: float, n: int, *, by_eye: bool = False) -> float:
    """Standard error of a share of n prompts, the error of reading it included.

    >>> round(share_error(0.5, 256), 3)
    0.031
    """
    return math.hypot(math.sqrt(share * (1 - share) / n), EYE if by_eye else 0.0)


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two shares, each of its own prompts: papers give nothing to pair them by.

    Attributes:
        shares: first and second, in [0, 1].
        n: prompts of each.
        by_eye: whether they were read off a figure.
    """

    shares: tuple[float, float]
    n: int
    by_eye: bool = False

    @property
    def points(self) -> float:
        """First minus second, in points."""
        return 100 * (self.shares[0] - self.shares[1])

    @property
    def error(self) -> float:
        """Standard error, in points."""
        errors = (share_error(share, self.n, by_eye=self.by_eye) for share in self.shares)
        return 100 * math.hypot(*errors)

    @property
    def separated(self) -> bool:
        """Whether the 95% interval excludes 0."""
        return abs(self.points) > Z95 * self.error

    @property
    def prompts_needed(self) -> int | None:
        """Unpaired prompts per arm that separate so large a difference with 80% power.

        >>> Difference((0.525, 0.475), 256).prompts_needed
        1566
        """
        if not self.points:
            return None
        variance = sum(share * (1 - share) for share in self.shares)
        return math.ceil((Z95 + Z80) ** 2 * variance / (self.points / 100) ** 2)

    def sentence(self, first: str, second: str) -> str:
        """In words.

        >>> Difference((0.617, 0.570), 256).sentence("DPO", "PPO")
        'DPO 4.7 ± 4.3 points over PPO: not separated'
        """
        word = "separated" if self.separated else "not separated"
        return f"{first} {self.points:.1f} ± {self.error:.1f} points over {second}: {word}"

    def verdict(self) -> str:
        """In words, e.g. ``± 4.3 (standard error): not separated``."""
        if self.separated:
            return f"± {self.error:.1f} (standard error): separated"
        more = f"; {self.prompts_needed:,} prompts an arm would" if self.prompts_needed else ""
        return f"± {self.error:.1f} (standard error): not separated{more}"
