"""The KL axis: positions are the square root of the KL, labels are nats.

Small KLs, where most losses' strong settings lie, and large ones read equally well, the reference
itself has a place (KL 0, which a logarithm has not), and reward gained is close to a straight line
in the root of the KL at first (Gao et al. 2022, arXiv:2210.10760).
"""

from __future__ import annotations

import math

AXIS_TITLE = "KL to the reference (nats, √ scale)"
NEAR_SHARE, NEAR_ROOT = 0.1, 0.1
"""Two KLs are near each other within this share of the one, or within this distance of the axis."""
_MANTISSAS = (1.0, 5.0, 2.0, 3.0, 4.0, 8.0, 6.0, 1.5)
"""Round numbers, those that readers expect first."""

ROUND = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""KLs (nats) at which losses are compared where none are named"""


def position(kl: float) -> float:
    """Where a KL (nats) is drawn; an estimate below 0 is drawn at 0."""
    return math.sqrt(max(kl, 0.0))


def is_near(kl: float, target: float) -> bool:
    """Whether a policy's KL (nats) is near enough to another to be held against policies there.

    Within a tenth of it, or a tenth apart in the root: the latter is the wider below 4 nats.

    >>> is_near(1.15, 1.0), is_near(1.3, 1.0), is_near(10.9, 10.0)
    (True, False, True)
    """
    return (
        abs(kl - target) <= NEAR_SHARE * target or abs(position(kl) - position(target)) <= NEAR_ROOT
    )


def ticks(largest: float, spacing: float = 0.07) -> list[float]:
    """KLs to label between 0 and ``largest`` nats, at least ``spacing`` of the axis apart.

    >>> ticks(9.4)
    [0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 8.0]
    >>> ticks(0.3)
    [0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3]
    """
    distance = spacing * (position(largest) or 1.0)
    chosen = [0.0]
    for mantissa in _MANTISSAS:
        for decade in range(-2, 5):
            candidate = float(f"{mantissa}e{decade}")
            free = all(abs(position(candidate) - position(k)) >= distance for k in chosen)
            if candidate <= largest and free:
                chosen.append(candidate)
    return sorted(chosen)
