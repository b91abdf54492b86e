"""Simulated losses: curves of KL against strength as measured, rewards whose truth is known.

`curves.csv` has the KL that 38 losses of this repository led to at the five strengths of their own
grids on the embedded world (mean over three seeds, and the standard deviation of its logarithm
between them). A world draws some of these losses and gives each a true difference in reward from
the baseline, the same at all KLs. Rewards by prompt have the parts of `benchmarks.calibration`.
"""

from __future__ import annotations

import csv
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator

from benchmarks.calibration.simulate import expected_reward
from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.points import Point

CURVES = Path(__file__).with_name("curves.csv")
BASELINE = "dpo"
RATE = 1e-3
"""learning rate of the experiment"""
BY_RATE = 1.8
"""of ln KL by the logarithm of the learning rate, for all losses"""
BENDS = math.log(100.0)
"""of ln strength: beyond those that were measured a curve goes on, and levels within this"""
SIZES = (0.0, 0.0, 0.05, -0.05, 0.1, -0.1, 0.15, -0.15)
"""true differences in reward from the baseline, one of which each loss has"""
ALIKE = 0.4
"""share of the variance between runs' KLs that a seed has in common at all strengths of a loss"""
RUNS = 0.015
"""standard deviation of the reward between runs at one KL"""


@dataclass(frozen=True)
class Curve:
    """KL against strength, as it was measured.

    Attributes:
        strengths: ascending.
        log_kl: ln of the mean KL at each.
        scatter: standard deviation of ln KL between seeds.
    """

    strengths: tuple[float, ...]
    log_kl: tuple[float, ...]
    scatter: tuple[float, ...]

    def at(self, strength: float) -> tuple[float, float]:
        """Expected ln KL and its scatter at any strength."""
        place, places = math.log(strength), np.log(self.strengths)
        inside = float(np.clip(place, places[0], places[-1]))
        line = PchipInterpolator(places, np.array(self.log_kl))
        scatter = float(np.interp(inside, places, self.scatter))
        outside = place - inside
        end, next_to = (-1, -2) if outside > 0 else (0, 1)
        slope = (self.log_kl[end] - self.log_kl[next_to]) / (places[end] - places[next_to])
        reach = math.copysign(BENDS * -math.expm1(-abs(outside) / BENDS), outside)
        return float(line(inside)) + slope * reach, scatter


@cache
def curves() -> dict[str, Curve]:
    """All measured curves, by loss."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    with CURVES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            values = float(row["strength"]), math.log(float(row["kl"])), float(row["scatter"])
            found.setdefault(row["loss"], []).append(values)
    return {
        loss: Curve(*(tuple(column) for column in zip(*sorted(rows), strict=True)))
        for loss, rows in found.items()
    }


class World:
    """Some losses, their true differences, and whatever chance there is; the same for one number.

    Args:
        number: of the world.
        losses: how many, the baseline among them.
        prompts: on which policies are measured.

    Attributes:
        heights: by loss, its true difference in reward from the baseline.
    """

    def __init__(self, number: int, losses: int, prompts: int = 256) -> None:
        self.number, self.prompts = number, prompts
        drawn = self._generator("losses")
        others = [one for one in curves() if one != BASELINE]
        names = [BASELINE, *sorted(drawn.choice(others, losses - 1, replace=False).tolist())]
        sizes = drawn.choice(SIZES, losses - 1)
        self.heights: dict[str, float] = dict(zip(names, [0.0, *map(float, sizes)], strict=True))
        self._ease = self._generator("ease").normal(0, 1, prompts)
        self._taste = {name: self._generator("taste", name).normal(0, 1, prompts) for name in names}
        self._runs: dict[tuple[str, float, float, int], tuple[Array, Array]] = {}

    def run(self, loss: str, strength: float, seed: int, rate: float = RATE) -> tuple[Array, Array]:
        """KLs and rewards by prompt of one trained policy."""
        key = (loss, strength, rate, seed)
        if key not in self._runs:
            self._runs[key] = self._trained(*key)
        return self._runs[key]

    def point(self, loss: str, settings: Mapping[int, tuple[float, float]]) -> Point:
        """Policies of several seeds, each with its strength and learning rate."""
        rows = [self.run(loss, one[0], seed, one[1]) for seed, one in settings.items()]
        return Point([one[0] for one in rows], [one[1] for one in rows], list(settings))

    def _trained(self, loss: str, strength: float, rate: float, seed: int) -> tuple[Array, Array]:
        drawn = self._generator("run", loss, strength, rate, seed)
        expected, scatter = curves()[loss].at(strength)
        in_common = self._generator("loss and seed", loss, seed).normal()
        off = math.sqrt(ALIKE) * in_common + math.sqrt(1 - ALIKE) * drawn.normal()
        kl = math.exp(expected + BY_RATE * math.log(rate / RATE) + scatter * off)
        of_seed = self._generator("seed", seed).normal()
        shift = RUNS * (0.5 * of_seed + math.sqrt(0.75) * drawn.normal())
        reward = float(expected_reward(kl)) + self.heights[loss] + shift
        noise = drawn.normal(0, 0.4, self.prompts)
        factor = np.exp(0.4 * self._ease + drawn.normal(0, 0.3, self.prompts) - 0.125)
        return kl * factor, reward + 0.5 * self._ease + 0.25 * self._taste[loss] + noise

    def _generator(self, *what: object) -> np.random.Generator:
        return np.random.default_rng([self.number, zlib.crc32(json.dumps(what).encode())])


def spread(strengths: Sequence[float], count: int, wider: float = 1.0) -> list[float]:
    """Strengths at equal distances on a logarithmic scale, over the same range or a wider one."""
    return [float(one) for one in np.geomspace(strengths[0] / wider, strengths[-1] * wider, count)]
