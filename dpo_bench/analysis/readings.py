"""What a loss reaches at a KL: every run is read there by itself, prompt by prompt.

A run is one policy after training: a loss, a strength and a seed. The runs of one seed, in order of
d = sqrt(KL), are the nodes of that seed's curve. Between two nodes the reward is read off along a
straight line in d, after a curve that all losses have in common was taken off and before it is put
back: what is left to the straight line is how a loss departs from the others. In a difference of
two losses the common curve cancels, wherever their nodes lie. Runs are read first and averaged
then: a strength whose seeds scatter in KL has a mean that lies on no run's curve.

Nothing is read beyond the runs: a KL is covered by a seed whose runs lie on both sides of it, or of
which one is within `WITHIN` of it. Runs whose d differ by at most `NEAR` are one node, because as a
pair they would say nothing of the slope. Where such runs have rewards that are far apart, strengths
lead to this KL by different ways, and the loss has no one reward there: it is not read.

Of the nodes those nearest to the KL make the line, at least the two around it: so many that what
they average out and how far the loss's curve may bend away from a line over them are least
together, as a variance and a squared error. The error of a line over nodes x with weights w is
c/2 sum w (x - d)^2, c the second derivative of what is left. c is not known, but its mean square
is: over the second differences of all losses' nodes, what noise makes of them taken off. It gives
the reading's error a standard deviation, which belongs into every interval; twice it is the bound
that is shown. Where no loss has three nodes, the curve is taken to be able to lie as far from the
straight line as a monotone one may on average: a quarter of the step between the nodes.

Per prompt, a reading is linear in the rewards and, to first order, in the KLs of the nodes. All
statistics of readings are therefore statistics of means over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.points import Curves, Point, by_step, trained

NEAR = 0.1
"""difference of sqrt(KL), sqrt(nats), up to which runs of a seed are one node"""

WITHIN = 0.1
"""a run counts as one at a KL when its own differs by at most this share of it"""

SMALLEST = 0.05
"""sqrt(nats): nearer to the reference than this a KL has no slope worth following"""

ROUNDING = 1e-8
"""of figures, relative to their size, as files with ten digits have it: it decides nothing"""

_APART = 8.0
"""standard errors of a run by which strengths at one KL may differ and still lie on one curve"""

SPLIT = "has no one reward at this KL: its strengths lead there by different ways"

_MOST_BENDS = 5
"""bends of the common curve, at most"""

_PRIOR = 3.0
"""second differences that the mean of all losses counts for beside a loss's own"""


@dataclass(frozen=True, eq=False)
class Reading:
    """A loss at one KL.

    Attributes:
        loss: its name.
        kl: nats.
        values: [seeds, prompts], each seed's reward at the KL, prompt by prompt.
        seed_names: of the rows.
        shares: [strengths], how much of the reading's variance comes from each; sums to 1.
        concentration: sum of the squared weights of a seed's runs, 1 where one run gives it all:
            what is left of a variance that the runs do not have in common.
        bracket: mean KLs (nats) of the nodes around it; the same where a run lies at the KL.
        interpolation: standard deviation of the error of reading between nodes, in units of reward.
    """

    loss: str
    kl: float
    values: Array
    seed_names: tuple[int, ...]
    shares: Array
    concentration: float
    bracket: tuple[float, float]
    interpolation: float

    @property
    def bias_bound(self) -> float:
        """What reading between nodes is off by at most: twice its standard deviation."""
        return 2 * self.interpolation


@dataclass(frozen=True)
class CommonCurve:
    """What bends alike in all losses: a natural cubic spline of d = sqrt(KL), without a line.

    A line need not be in it: reading along straight lines follows lines anyway.

    Attributes:
        knots: [bends + 2], sqrt(nats); empty for no bend.
        weights: [bends].
    """

    knots: Array
    weights: Array

    def at(self, distance: Array) -> Array:
        """The curve at each d, in units of reward."""
        return self._sum(distance, 3)

    def slope(self, distance: Array) -> Array:
        """Its derivative by d."""
        return self._sum(distance, 2)

    def _sum(self, distance: Array, power: int) -> Array:
        if not len(self.weights):
            return np.zeros_like(distance)
        return np.asarray(_bends(distance, self.knots, power) @ self.weights)


def _bends(distance: Array, knots: Array, power: int) -> Array:
    """The basis [..., bends] of a natural cubic spline (power 3) or of its derivative (power 2).

    Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, eq. 5.4 and 5.5.
    """
    cubes = np.maximum(distance[..., None] - knots, 0) ** power * (3 if power == 2 else 1)
    chords = (cubes[..., :-1] - cubes[..., -1:]) / (knots[-1] - knots[:-1])
    return np.asarray(chords[..., :-1] - chords[..., -1:])


def common_curve(curves: Curves) -> CommonCurve:
    """Fit the common curve to the run means of all losses, each with a line of its own."""
    runs = [
        (column, distance, float(mean))
        for column, points in enumerate(curves.values())
        for point in trained(points)
        for distance, mean in zip(distances(point), point.reward.mean(axis=1), strict=True)
    ]
    strengths = sum(len(trained(points)) for points in curves.values())
    bends = min(_MOST_BENDS, (strengths - 2 * len(curves)) // 3)
    column, distance, reward = (np.array(one) for one in zip(*runs, strict=True))
    knots: Array = (
        np.unique(np.quantile(distance, np.linspace(0, 1, bends + 2))) if bends > 0 else np.empty(0)
    )
    if len(knots) < 3:
        return CommonCurve(np.empty(0), np.empty(0))
    own = (column[:, None] == np.arange(len(curves))).astype(np.float64)
    basis = _bends(distance, knots, 3)
    design = np.hstack([basis, own, own * distance[:, None]])
    weights = np.linalg.lstsq(design, reward, rcond=1e-8)[0]
    return CommonCurve(knots, np.asarray(weights[: basis.shape[1]]))


def distances(point: Point) -> Array:
    """Sqrt(KL) of each run [seeds]."""
    return np.asarray(np.sqrt(np.maximum(point.kl.mean(axis=1), 0)))


@dataclass(frozen=True, eq=False)
class Curve:
    """A loss's trained policies beside what all losses have in common.

    Attributes:
        loss: its name.
        points: one for each strength.
        common: the curve of all losses.
        bend: root mean square of the second derivative of what is left, reward / nat.
        slope: root mean square of its slope, reward / sqrt(nat).
        noise: variance that sampled responses give the mean of a run, 0 where it is not known.
    """

    loss: str
    points: tuple[Point, ...]
    common: CommonCurve
    bend: float
    slope: float
    noise: float

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that any of its strengths has."""
        return tuple(sorted({name for point in self.points for name in point.seed_names}))

    def read(self, kl: float) -> Reading | str:
        """The loss at a KL (nats), or why it has no reading there."""
        found = {seed: self._read_seed(seed, math.sqrt(kl)) for seed in self.seeds}
        covered = {seed: one for seed, one in found.items() if isinstance(one, _SeedReading)}
        if len(covered) < min(2, len(found)):
            return SPLIT if SPLIT in found.values() else self._uncovered(len(covered))
        low, high = (
            float(np.mean([one.bracket[side] ** 2 for one in covered.values()])) for side in (0, 1)
        )
        return Reading(
            self.loss,
            kl,
            np.stack([one.values for one in covered.values()]),
            tuple(covered),
            np.mean([one.shares for one in covered.values()], axis=0),
            float(np.mean([one.concentration for one in covered.values()])),
            (low, high),
            float(np.mean([one.interpolation for one in covered.values()])),
        )

    def _uncovered(self, seeds: int) -> str:
        nodes = [float(one) ** 2 for point in self.points for one in distances(point)]
        if len(self.points) == 1:
            return f"has one strength only, at KL {np.mean(nodes):.3g}"
        there = ", at this KL with one seed only" if seeds else ""
        return f"spans KL {min(nodes):.3g} to {max(nodes):.3g}{there}"

    def _read_seed(self, seed: int, wanted: float) -> _SeedReading | str:
        """One seed's runs at d, `SPLIT`, or nothing where they do not cover it."""
        runs = [
            (distances(point)[row], index, row)
            for index, point in enumerate(self.points)
            if seed in point.seed_names
            for row in (point.seed_names.index(seed),)
        ]
        nodes = _nodes([run[0] for run in runs])
        places = np.array([np.mean([runs[run][0] for run in node]) for node in nodes])
        around = _bracket(places, wanted)
        if around is None:
            return ""
        if any(self._is_split([runs[run] for run in nodes[node]]) for node in around):
            return SPLIT
        line = self._line(places, around, wanted)
        weights, slopes = np.zeros(len(runs)), np.zeros(len(runs))
        for node, part, tilt in zip(line.nodes, line.weights, line.slopes, strict=True):
            weights[nodes[node]] = part / len(nodes[node])
            slopes[nodes[node]] = tilt / len(nodes[node])
        values, shares = self._values(runs, weights, slopes, wanted)
        bracket = (float(places[around[0]]), float(places[around[-1]]))
        return _SeedReading(values, shares, float((weights**2).sum()), bracket, line.error)

    def _is_split(self, runs: Sequence[tuple[float, int, int]]) -> bool:
        """Whether runs of one node reach rewards that noise does not explain."""
        means = [float(self.points[index].reward[row].mean()) for _, index, row in runs]
        return bool(self.noise) and max(means) - min(means) > _APART * math.sqrt(self.noise)

    def _line(self, places: Array, around: list[int], wanted: float) -> _Line:
        """The straight line through the nodes nearest to d that errs least."""
        if len(around) == 1:
            error = self.slope * abs(wanted - places[around[0]])
            return _Line(around, np.ones(1), np.zeros(1), float(error))
        order = sorted(
            range(len(places)), key=lambda node: (node not in around, abs(places[node] - wanted))
        )
        lines = [
            self._through(places, sorted(order[:count]), wanted)
            for count in range(2, len(places) + 1)
        ]
        return min(lines, key=lambda one: self.noise * float((one.weights**2).sum()) + one.error**2)

    def _through(self, places: Array, nodes: list[int], wanted: float) -> _Line:
        own = places[nodes]
        apart = own - own.mean()
        slopes = apart / (apart**2).sum()
        weights = 1 / len(own) + (wanted - own.mean()) * slopes
        error = 0.5 * self.bend * abs(float(weights @ (own - wanted) ** 2))
        return _Line(nodes, weights, slopes, error)

    def _values(
        self,
        runs: Sequence[tuple[float, int, int]],
        weights: Array,
        slopes: Array,
        wanted: float,
    ) -> tuple[Array, Array]:
        """The seed's reward at d by prompt, and the strengths' shares of its variance."""
        taken = np.flatnonzero(weights)
        place = np.array([runs[run][0] for run in taken.tolist()])
        where = [runs[run][1:] for run in taken.tolist()]
        reward = np.stack([self.points[index].reward[row] for index, row in where])
        kl = np.stack([self.points[index].kl[row] for index, row in where])
        left = reward - self.common.at(place)[:, None]
        rise = float(slopes[taken] @ left.mean(axis=1))
        slope = (self.common.slope(place) + rise) / (2 * np.maximum(place, SMALLEST))
        moved = left - slope[:, None] * (kl - kl.mean(axis=1, keepdims=True))
        values = weights[taken] @ moved + float(self.common.at(np.array([wanted]))[0])
        shares = np.zeros(len(self.points))
        for run, (index, _) in zip(taken.tolist(), where, strict=True):
            shares[index] += weights[run] ** 2
        return values, shares / shares.sum()


@dataclass(frozen=True, eq=False)
class _Line:
    """What a straight line over some nodes makes of them.

    Attributes:
        nodes: their indices.
        weights: of the nodes in the value at d.
        slopes: of the nodes in the slope.
        error: standard deviation of what the curve's bend adds.
    """

    nodes: list[int]
    weights: Array
    slopes: Array
    error: float


@dataclass(frozen=True, eq=False)
class _SeedReading:
    values: Array
    shares: Array
    concentration: float
    bracket: tuple[float, float]
    interpolation: float


def _nodes(places: Sequence[float]) -> list[list[int]]:
    """Indices of runs by node, in order of d: a node takes what is within `NEAR` of its first."""
    found: list[list[int]] = []
    start = -math.inf
    for index in sorted(range(len(places)), key=places.__getitem__):
        if places[index] - start > NEAR:
            found.append([])
            start = places[index]
        found[-1].append(index)
    return found


def _bracket(places: Array, wanted: float) -> list[int] | None:
    """The two nodes around d, or the one at it; None where nothing covers it."""
    right = int((places < wanted).sum())
    if 0 < right < len(places):
        return [right - 1, right]
    end = min(right, len(places) - 1)
    near = abs(places[end] ** 2 - wanted**2) <= WITHIN * wanted**2
    return [end] if near else None


def curves_in_common(curves: Curves) -> dict[str, Curve]:
    """Each loss's trained policies, ready to be read at any KL."""
    common = common_curve(curves)
    points = {name: trained(found) for name, found in curves.items()}
    nodes = {name: _mean_nodes(found, common) for name, found in points.items()}
    noise = {name: _noise(found, common) for name, found in points.items()}
    seeds = {name: max(point.seeds for point in found) for name, found in points.items()}
    seconds = {
        name: _second_differences(*nodes[name], noise[name] / seeds[name]) for name in curves
    }
    slopes = {name: _slopes(*nodes[name], noise[name] / seeds[name]) for name in curves}
    bends, rises = _moderated_roots(seconds), _moderated_roots(slopes)
    if not any(len(one[0]) for one in seconds.values()):
        bends = {name: _monotone_bend(*one) for name, one in nodes.items()}
    scale = max(float(np.abs(one.reward).max()) for found in points.values() for one in found)

    def sized(value: float) -> float:
        return value if value > ROUNDING * scale else 0.0

    return {
        name: Curve(
            name,
            tuple(found),
            common,
            sized(bends[name]),
            sized(rises[name]),
            sized(math.sqrt(noise[name])) ** 2,
        )
        for name, found in points.items()
    }


def _noise(points: Sequence[Point], common: CommonCurve) -> float:
    """Variance of a run's mean by its responses: what strengths, seeds and prompts leave unsaid."""
    rows = [
        row - common.at(distances(point))[index]
        for point in points
        for index, row in enumerate(point.reward)
    ]
    return noise_of_mean(np.stack(rows))


def noise_of_mean(table: Array) -> float:
    """Variance of a row's mean by what rows and prompts [rows, prompts] leave unsaid; 0 for one."""
    rows, prompts = table.shape
    if rows < 2 or prompts < 2:
        return 0.0
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((rest**2).sum() / ((rows - 1) * (prompts - 1)) / prompts)


def mean_line(curve: Curve) -> tuple[Array, Array]:
    """D and what is left of the reward at the mean nodes of a loss, in order."""
    return _mean_nodes(curve.points, curve.common)


def _mean_nodes(points: Sequence[Point], common: CommonCurve) -> tuple[Array, Array]:
    places = [float(distances(point).mean()) for point in points]
    left = [float((p.reward.mean(axis=1) - common.at(distances(p))).mean()) for p in points]
    nodes = _nodes(places)
    means = [np.array([np.mean([v[i] for i in node]) for node in nodes]) for v in (places, left)]
    return means[0], means[1]


_Squares = tuple[Array, Array]
"""squares of a derivative and their weights"""


def _second_differences(place: Array, left: Array, noise: float) -> _Squares:
    """Squares of second derivatives at inner nodes, each weighted by how little noise it holds.

    What the noise of the nodes makes of a square on average is taken off.
    """
    if len(place) < 3:
        return np.empty(0), np.empty(0)
    first, second = np.diff(place)[:-1], np.diff(place)[1:]
    span = first + second
    parts = np.stack([2 / (first * span), -2 / (first * second), 2 / (second * span)])
    value = (parts * np.stack([left[:-2], left[1:-1], left[2:]])).sum(axis=0)
    size = (parts**2).sum(axis=0)
    return value**2 - noise * size, 1 / size


def _slopes(place: Array, left: Array, noise: float) -> _Squares:
    """Squares of slopes between nodes, likewise."""
    if len(place) < 2:
        return np.empty(0), np.empty(0)
    width = np.diff(place)
    return (np.diff(left) / width) ** 2 - 2 * noise / width**2, width**2


def _moderated_roots(squares: Mapping[str, _Squares]) -> dict[str, float]:
    """Root mean squares by loss, each drawn towards that of all losses."""
    everything = [np.concatenate(part) for part in zip(*squares.values(), strict=True)]
    total = everything[1].sum()
    overall = max(float((everything[0] * everything[1]).sum() / total), 0.0) if total > 0 else 0.0
    found = {}
    for name, (square, weight) in squares.items():
        own = float((square * weight).sum() / weight.sum()) if len(square) else 0.0
        count = len(square)
        found[name] = math.sqrt(max(_PRIOR * overall + count * own, 0.0) / (_PRIOR + count))
    return found


def _monotone_bend(place: Array, left: Array) -> float:
    """The bend with which a curve lies a quarter of its step off the line, half-way."""
    if len(place) < 2:
        return 0.0
    return float(2 * np.abs(np.diff(left)).max() / np.diff(place).min() ** 2)


def read_all(
    curves: Mapping[str, Curve], levels: Sequence[float]
) -> tuple[list[list[Reading]], list[dict[str, str]]]:
    """Every loss at every KL.

    Returns:
        by level the readings, and by level why losses have none.
    """
    found: list[list[Reading]] = []
    reasons: list[dict[str, str]] = []
    for kl in levels:
        tried = {name: curve.read(kl) for name, curve in curves.items()}
        found.append([one for one in tried.values() if isinstance(one, Reading)])
        reasons.append({name: one for name, one in tried.items() if isinstance(one, str)})
    return found, reasons


def outline(points: Sequence[Point]) -> dict[int, list[tuple[float, float]]]:
    """KL (nats) and reward of the mean nodes of each step, in order; to be drawn, not read."""
    found = {}
    for step, indices in by_step(points).items():
        own = [points[index] for index in indices]
        nodes = _nodes([math.sqrt(max(one.mean_kl, 0.0)) for one in own])
        found[step] = [
            (
                float(np.mean([own[index].mean_kl for index in node])),
                float(np.mean([own[index].reward.mean() for index in node])),
            )
            for node in nodes
        ]
    return found


def covered_range(curve: Curve) -> tuple[float, float] | None:
    """The KLs (nats) that all seeds of a loss span; None without two nodes.

    Where no KL is spanned by all of them, None as well.
    """
    ends = []
    for seed in curve.seeds:
        own = [
            float(distances(point)[point.seed_names.index(seed)])
            for point in curve.points
            if seed in point.seed_names
        ]
        ends.append((min(own), max(own)))
    low, high = max(one[0] for one in ends) ** 2, min(one[1] for one in ends) ** 2
    return (low, high) if low < high else None
