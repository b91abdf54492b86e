"""Where more optimization begins to hurt: reward against the distance from the reference.

With d = sqrt(KL), the gain over the reference is described by three forms of two coefficients each:

    gao                  alpha d - beta d ln d    Gao et al. 2022, arXiv:2210.10760, for policies of
                                                  reinforcement learning; Rafailov et al. 2024,
                                                  arXiv:2406.02900, for direct alignment
    quadratic_distance   a d + b d^2              Gao et al. for best-of-n
    quadratic_kl         a KL + b KL^2            what Rafailov et al. compare with

All are least-squares fits to the mean gain of each policy, each policy counting once, through the
origin: the reference gains nothing over itself. A peak is looked for between the smallest and the
largest KL that were measured; a fit that rises up to the end, or falls from the beginning, has
none.

No form is known to be the right one, and the place of the peak depends on it: the interval of one
form's peak holds what prompts and seeds make of it, not what the choice of the form does. So the
peak is given as a range, over the intervals of all forms that fit comparably. These are the forms

- whose root mean square residual is at most `COMPARABLE` times the smallest (for n policies a
  difference of 2 n ln 1.5 in Akaike's criterion, 4 to 7 for five to eight: "considerably less
  support", Burnham and Anderson 2002, page 70), and those
- that the data cannot reject: whose residuals are all within what the policies' own errors allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.points import Point, cells
from dpo_bench.analysis.two_way import two_way

COMPARABLE = 1.5
"""times the smallest residual, up to which a form counts as fitting comparably"""

_LEVEL = 0.95
"""of the statement that no residual of a form is beyond its policy's own error"""


@dataclass(frozen=True)
class FormFit:
    """One form, fitted to a series of policies.

    Attributes:
        name: gao, quadratic_distance or quadratic_kl.
        coefficients: the two, in the order of the module's table; reward per power of nats.
        residuals: measured minus fitted gain of each policy; the intervals hold all at once (95%).
        rmse: root mean square of the residuals, in units of reward.
        misfit: whether some residual is larger than its policy's own error allows.
        comparable: whether the form counts for the range of the peak.
        peak: the KL of the largest reward, nats; None where there is no peak inside the range. Its
            interval is cut off at the range's ends: an interval that reaches an end is open there.
        open_low: whether the interval of the peak reaches the smallest KL measured.
        open_high: whether it reaches the largest.
        reason: why there is no peak; empty where there is one.
    """

    name: str
    coefficients: tuple[Estimate, Estimate]
    residuals: tuple[Estimate, ...]
    rmse: float
    misfit: bool
    comparable: bool
    peak: Estimate | None
    open_low: bool
    open_high: bool
    reason: str


@dataclass(frozen=True)
class PeakRange:
    """Where the forms that fit comparably put the peak, nats.

    Attributes:
        first: the smallest of their peaks.
        last: the largest.
        low: the smallest end of their intervals; the smallest KL measured where it is open.
        high: the largest end.
        open_low: whether some form falls from the smallest KL, or cannot exclude that it does.
        open_high: whether some form rises to the largest KL, or cannot exclude that it does.
    """

    first: float
    last: float
    low: float
    high: float
    open_low: bool
    open_high: bool


@dataclass(frozen=True)
class Fit:
    """Reward against KL of a series of policies.

    Attributes:
        forms: all, in the order of the module's table.
        range: of the peak; None where no form that fits comparably has one.
        seeds: number of training seeds in the intervals; with one, prompts only.
    """

    forms: tuple[FormFit, ...]
    range: PeakRange | None
    seeds: int

    @property
    def gao(self) -> FormFit:
        """Gao's form."""
        return self.forms[0]

    @property
    def best(self) -> FormFit:
        """The form with the smallest residual."""
        return min(self.forms, key=lambda one: one.rmse)

    @property
    def peak(self) -> Estimate | None:
        """That of Gao's form alone, as if it were known to be right."""
        return self.gao.peak


@dataclass(frozen=True)
class _Form:
    """A form: its two columns of d, and ln d where it turns down (infinite where it does not)."""

    name: str
    columns: Callable[[Array], tuple[Array, Array]]
    turn: Callable[[Array, Array], Array]


def fit_overoptimization(
    points: Sequence[Point], reference_reward: ArrayLike, weights: Array
) -> Fit:
    """Fit the forms to one series of policies.

    Args:
        points: three or more, each a strength with all of its seeds; of one step of training, since
            half-trained policies reach less at the same KL.
        reference_reward: [prompts], mean reward of the reference's own responses.
        weights: [resamples, prompts] from `bootstrap.resample_weights`.

    Raises:
        ValueError: there are fewer than three points, all have the same KL, or the prompts differ.
    """
    base = np.asarray(reference_reward, dtype=np.float64)
    gains = [Point(one.kl, one.reward - base, one.seed_names) for one in points]
    if len(gains) < 3 or len({one.mean_kl for one in gains}) < 2:
        raise ValueError("the fit needs three policies or more, not all at the same KL")
    table = cells({"": gains})
    found = [_fitted(form, table, weights) for form in _FORMS]
    smallest = min(one.rmse for one, _ in found)
    forms = tuple(
        replace(one, comparable=not one.misfit or one.rmse <= COMPARABLE * smallest)
        for one, _ in found
    )
    distance = _distance(np.array([[one.mean_kl for one in gains]]))
    ends = float(distance.min()) ** 2, float(distance.max()) ** 2
    return Fit(forms, _range([one for one in forms if one.comparable], *ends), found[0][1])


def _fitted(form: _Form, table: Array, weights: Array) -> tuple[FormFit, int]:
    """A form's fit, and the number of seeds behind it, from cells [seeds, prompts, 2 policies]."""
    policies = table.shape[2] // 2
    means = np.nanmean(table, axis=0).mean(axis=0)[None]
    distance = _distance(means[:, :policies])
    low, high = float(distance.min()), float(distance.max())

    def figures(rows: Array) -> Array:
        first, second = _coefficients(form, rows)
        peak = _log_peak(form, first, second, low, high)
        return np.stack([first, second, 2 * peak], axis=1)

    first, second, peak = two_way(figures, table, weights)
    level = 1 - (1 - _LEVEL) / policies
    residuals = [
        one.estimate for one in two_way(lambda rows: _residuals(form, rows), table, weights, level)
    ]
    rmse = math.sqrt(float(np.mean([one.value**2 for one in residuals])))
    place, ends = peak.estimate, (2 * math.log(low), 2 * math.log(high))
    inside = ends[0] < place.value < ends[1]
    cut = Estimate(place.value, max(place.low, ends[0]), min(place.high, ends[1]), place.n)
    fit = FormFit(
        form.name,
        (first.estimate, second.estimate),
        tuple(residuals),
        rmse,
        misfit=rmse > 1e-9 * float(np.abs(means[0, policies:]).max()) and any(map(_off, residuals)),
        comparable=False,
        peak=_exponential(cut) if inside else None,
        open_low=not place.low > ends[0],
        open_high=not place.high < ends[1],
        reason="" if inside else _no_peak(place.value >= ends[1], low, high),
    )
    return fit, first.spread.count


def _range(forms: Sequence[FormFit], lowest: float, highest: float) -> PeakRange | None:
    """The range over forms, where the policies' KLs reach from the lowest to the highest."""
    peaks = [one.peak for one in forms if one.peak is not None]
    if not peaks:
        return None
    open_low, open_high = (any(ends) for ends in zip(*map(_open, forms), strict=True))
    return PeakRange(
        first=min(one.value for one in peaks),
        last=max(one.value for one in peaks),
        low=lowest if open_low else min(one.low for one in peaks),
        high=highest if open_high else max(one.high for one in peaks),
        open_low=open_low,
        open_high=open_high,
    )


def _open(form: FormFit) -> tuple[bool, bool]:
    return form.open_low, form.open_high


def _off(residual: Estimate) -> bool:
    return residual.low > 0 or residual.high < 0


def _distance(kl: Array) -> Array:
    return np.sqrt(np.maximum(kl, 1e-12))


def _coefficients(form: _Form, rows: Array) -> tuple[Array, Array]:
    """Both coefficients [rows] from means [rows, 2 policies]: KLs, then gains."""
    policies = rows.shape[1] // 2
    x, y = form.columns(_distance(rows[:, :policies]))
    gain = rows[:, policies:]
    a, b, c = ((one * other).sum(axis=1) for one, other in ((x, x), (x, y), (y, y)))
    p, q = (x * gain).sum(axis=1), (y * gain).sum(axis=1)
    determinant = a * c - b * b
    return (c * p - b * q) / determinant, (a * q - b * p) / determinant


def _residuals(form: _Form, rows: Array) -> Array:
    """Gain minus fit [rows, policies]."""
    policies = rows.shape[1] // 2
    first, second = _coefficients(form, rows)
    x, y = form.columns(_distance(rows[:, :policies]))
    return np.asarray(rows[:, policies:] - first[:, None] * x - second[:, None] * y)


def _log_peak(form: _Form, first: Array, second: Array, low: float, high: float) -> Array:
    """Where the fit is largest between two distances, as ln d [rows]; an end where it is there."""
    x, y = form.columns(np.array([[low, high]]))
    ends = first[:, None] * x + second[:, None] * y
    end = np.where(ends[:, 1] >= ends[:, 0], math.log(high), math.log(low))
    turn = form.turn(first, second)
    inside = np.clip(turn, math.log(low), math.log(high))
    return np.where(np.isfinite(turn), inside, end)


def _gao_turn(alpha: Array, beta: Array) -> Array:
    ratio = np.divide(alpha, beta, out=np.full_like(alpha, np.inf), where=beta > 0)
    return np.asarray(ratio - 1)


def _quadratic_turn(first: Array, second: Array) -> Array:
    """The logarithm of -a / 2b, the place in a quadratic's own variable; very low where a < 0."""
    place = np.divide(-first, 2 * second, out=np.full_like(first, np.inf), where=second < 0)
    return np.log(np.maximum(place, 1e-12))


_FORMS = (
    _Form("gao", lambda d: (d, -d * np.log(d)), _gao_turn),
    _Form("quadratic_distance", lambda d: (d, d**2), _quadratic_turn),
    _Form("quadratic_kl", lambda d: (d**2, d**4), lambda a, b: _quadratic_turn(a, b) / 2),
)


def _no_peak(rises: bool, low: float, high: float) -> str:
    where, end = ("rises up to", high) if rises else ("falls from", low)
    return f"no peak inside the range: the fitted reward {where} KL {end**2:.3g}"


def _exponential(log: Estimate) -> Estimate:
    return Estimate(math.exp(log.value), math.exp(log.low), math.exp(log.high), log.n)
