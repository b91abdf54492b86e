"""Everything that the claims are judged by, trained once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpo_bench.reproduce.claims.world import (
    Candidate,
    Measured,
    Worlds,
    make_worlds,
    measure,
    train,
)

CURVE = (0.03, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 4.0, 10.0)
"""betas of DPO's reward against KL"""
GRID = (0.1, 0.3, 1.0, 3.0)
MONOTONE = ("dpo", "ipo_sum", "hinge", "cdpo")
SMALL = 0.03
FLIPS = (0.0, 0.1, 0.2, 0.4)
NOISY = ("dpo", "cdpo", "robust_dpo", "ipo_sum")
BETAS = (0.1, 0.5)
Cell = tuple[str, float]
"""loss and beta"""


@dataclass(frozen=True, slots=True)
class Trials:
    """Everything that was trained.

    Attributes:
        clean: by loss and beta, labels by gold.
        proxied: DPO by beta, labels by the proxy.
        flipped: share of flips -> by loss and beta; deterministic gold labels before the flips.
        worlds: the worlds (their gold and reference do not depend on the labels).
    """

    clean: Mapping[Cell, Measured]
    proxied: Mapping[Cell, Measured]
    flipped: Mapping[float, Mapping[Cell, Measured]]
    worlds: Worlds

    @classmethod
    def run(cls) -> Trials:
        """Train all of it."""
        worlds = make_worlds()
        dpo = [Candidate("dpo", beta) for beta in CURVE]
        others = [Candidate(loss, beta) for loss in MONOTONE[1:] for beta in GRID]
        small = [Candidate("ipo_sum", SMALL)]
        return cls(
            clean=_measured(worlds, [*dpo, Candidate("dpo", 3.0), *others, *small]),
            proxied=_measured(make_worlds(proxy=True), dpo),
            flipped={share: _flipped(share) for share in FLIPS},
            worlds=worlds,
        )

    @property
    def all(self) -> list[Measured]:
        """Every policy."""
        tables = [self.clean, self.proxied, *self.flipped.values()]
        return [one for table in tables for one in table.values()]


def _measured(worlds: Worlds, candidates: Sequence[Candidate]) -> dict[Cell, Measured]:
    trained = train(worlds, candidates)
    return {
        (one.loss, one.beta): measure(worlds, policy)
        for one, policy in zip(candidates, trained, strict=True)
    }


def _flipped(share: float) -> dict[Cell, Measured]:
    """The losses that know of flips are told their true share."""
    knows = {"cdpo", "robust_dpo"}
    candidates = [
        Candidate(loss, beta, share if loss in knows else None) for beta in BETAS for loss in NOISY
    ]
    return _measured(make_worlds(flips=share, noisy=False), candidates)
