"""Figure files with curves: reward, win rate and log-ratios against KL; training by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.kl_axis import AXIS_TITLE, position, ticks
from dpo_bench.analysis.loss_curves import LossCurve, kl_position, largest_kl
from dpo_bench.analysis.metrics import CHOSEN, REJECTED, REWARD, WIN_RATE, Metric
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report import theme
from dpo_bench.report.figures.frames import (
    ALONG,
    BEST_OF_N,
    CURVE,
    FRONTIER,
    REFERENCE,
    TRAINED,
    displacement_points,
    points_against_kl,
    reward_points,
    training_steps,
)
from dpo_bench.report.figures.style import SERIES_MARK, add_legend, new_figure, series_label
from dpo_bench.report.view import ReportView
from dpo_bench.wording import number, plain_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_frontier(view: ReportView) -> Figure:
    """Reward against KL with the optimal frontier, best-of-n and the reference."""
    figure, axes = new_figure()
    plot_frontier(axes[0][0], view.results, view.series, view.curves)
    add_legend(figure)
    return figure


def plot_frontier(
    axis: Axes,
    results: SweepResults,
    series: Sequence[LossCurve],
    curves: CurvesOnPrompts | None,
) -> None:
    """Draw that figure on given axes."""
    points = reward_points(series, curves, results)
    _kl_axis(axis, results)
    _optimum(axis, points)
    for one in series:
        _along(axis, points, one)
        _curve(axis, points, one)
    own = points[points["point"] == REFERENCE]
    if len(own):
        axis.plot(
            _places(own["kl"]), own["value"], "*", color=theme.LIGHT["ink"], markersize=10,
            clip_on=False, label=REFERENCE,
        )  # fmt: skip
    axis.set_ylabel(REWARD.axis)


def _optimum(axis: Axes, points: pd.DataFrame) -> None:
    """The optimal frontier with its band and its end, and best-of-n."""
    color = theme.LIGHT["frontier"]
    frontier, best = (points[points["point"] == one] for one in (FRONTIER, BEST_OF_N))
    if len(frontier):
        x = _places(frontier["kl"])
        high = list(frontier["high"])
        axis.fill_between(x, frontier["low"], high, color=color, alpha=0.22, linewidth=0)
        axis.plot(x, frontier["value"], color=color, linewidth=2, label=FRONTIER)
        axis.annotate(
            f"optimum known to KL {number(frontier['kl'].iloc[-1], 1)}", (x[-1], high[-1]),
            xytext=(0, 3), textcoords="offset points", color=theme.LIGHT["muted"], fontsize=8,
            horizontalalignment="left" if x[-1] < axis.get_xlim()[1] / 2 else "right",
        )  # fmt: skip
    if len(best):
        axis.plot(
            _places(best["kl"]), best["value"], ":o", color=color, linewidth=1.2,
            markersize=3.5, markerfacecolor="white", label=BEST_OF_N,
        )  # fmt: skip


def draw_against_kl(view: ReportView, measure: Metric) -> Figure:
    """Any measure against KL."""
    figure, axes = new_figure()
    plot_against_kl(axes[0][0], view.results, view.series, view.curves, measure)
    add_legend(figure)
    return figure


def plot_against_kl(
    axis: Axes,
    results: SweepResults,
    series: Sequence[LossCurve],
    curves: CurvesOnPrompts | None,
    measure: Metric,
) -> None:
    """Draw that figure on given axes."""
    points = points_against_kl(series, curves, measure)
    _kl_axis(axis, results)
    for one in series:
        _along(axis, points, one)
        _curve(axis, points, one)
    if measure == WIN_RATE:
        axis.axhline(0.5, color=theme.LIGHT["muted"], linewidth=0.9, linestyle="--", zorder=1)
    axis.set_ylabel(measure.axis)


def draw_displacement(view: ReportView) -> Figure:
    """Chosen and rejected log-ratios against KL."""
    figure, axes = new_figure()
    axis = axes[0][0]
    _kl_axis(axis, view.results)
    axis.axhline(0, color=theme.LIGHT["muted"], linewidth=0.9, linestyle="--", zorder=1)
    points = displacement_points(view.series)
    chosen, rejected = (points[points["measure"] == one.name] for one in (CHOSEN, REJECTED))
    for one in view.series:
        _curve(axis, chosen, one)
        _curve(axis, rejected, one, filled=False)
    axis.set_ylabel("Log-ratio on held-out pairs (nats)\nfilled: chosen, open: rejected")
    add_legend(figure)
    return figure


def _curve(axis: Axes, points: pd.DataFrame, series: LossCurve, filled: bool = True) -> None:
    """A line through the settings of the curve, and a marker with intervals for every trial."""
    color, look = theme.SERIES_LIGHT[theme.style(series.index).color], theme.style(series.index)
    trained = points[(points["point"] == TRAINED) & (points["index"] == series.index)]
    trained = trained.dropna(subset=["kl"])
    if trained.empty:
        return
    rank = {trial.id: setting.rank for setting in series.settings for trial in setting.trials}
    joined = trained[trained["trial"].isin(list(rank))]
    center = joined.groupby(joined["trial"].map(rank), sort=False)[["kl", "value"]].mean()
    label = f"{SERIES_MARK}{series_label(series)}" if filled else None
    axis.plot(
        _places(center["kl"]), center["value"], color=color, linewidth=1.6,
        linestyle=look.dash[1] if filled else ":", marker=look.marker.matplotlib, markersize=5.5,
        markerfacecolor=color if filled else "white",
        markeredgecolor="white" if filled else color,
        label=label,
    )  # fmt: skip
    for row in trained.to_dict("records"):
        kl = kl_position(Estimate(row["kl"], row["kl_low"], row["kl_high"]))
        value = Estimate(row["value"], row["low"], row["high"])
        axis.errorbar(
            kl.value,
            value.value,
            yerr=_error(value),
            xerr=_error(kl),
            color=color,
            alpha=0.5,
            linewidth=1,
            fmt="none",
        )
        if len(trained) > len(center):
            axis.plot(
                [kl.value], [value.value], look.marker.matplotlib,
                color=color, alpha=0.45, markersize=3.5,
            )  # fmt: skip


def _along(axis: Axes, points: pd.DataFrame, series: LossCurve) -> None:
    """A small open mark for every policy along training, and a thin line for each step."""
    color = theme.SERIES_LIGHT[theme.style(series.index).color]
    own = points[points["index"] == series.index]
    for _, along in own[own["point"] == ALONG].groupby("trial", sort=False):
        axis.plot(
            _places(along["kl"]), along["value"], "o", color=color,
            alpha=0.6, markersize=2.6, markerfacecolor="none", markeredgewidth=0.7, zorder=1.5,
        )  # fmt: skip
    lines = [line for _, line in own[own["point"] == CURVE].groupby("step")]
    for line in lines[:-1]:  # the last is the trained policies' own
        x = _places(line["kl"])
        axis.plot(x, line["value"], color=color, alpha=0.5, linewidth=0.7, zorder=1.5)


def _places(kls: pd.Series[float]) -> list[float]:
    """KLs (nats) as places on their axis."""
    return [position(kl) for kl in kls]


def _error(value: Estimate) -> list[list[float]] | None:
    if not value.has_interval:
        return None
    return [[max(value.value - value.low, 0.0)], [max(value.high - value.value, 0.0)]]


_TRAINING = (
    ("loss", "Loss, share of step 0"),
    ("margin", "Margin (nats)"),
    ("accuracy", "Accuracy"),
)


def draw_training(view: ReportView) -> Figure:
    """Loss, margin and accuracy by step; the larger the strength, the stronger the line."""
    figure, axes = new_figure(9.0, 3.2, columns=len(_TRAINING))
    steps = training_steps(view.series)
    for axis, (column, title) in zip(axes[0], _TRAINING, strict=True):
        for one in view.series:
            _training_lines(axis, steps, one, column)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step")
    axes[0][1].set_xlabel("step (the larger the strength, the darker the line)")
    add_legend(figure, axes[0][0])
    return figure


def _training_lines(axis: Axes, steps: pd.DataFrame, series: LossCurve, column: str) -> None:
    color, labeled = theme.SERIES_LIGHT[theme.style(series.index).color], False
    opacity = {
        trial.id: 0.35 + 0.65 * (setting.rank + 1) / len(settings)
        for settings in (series.settings, series.explored)
        for setting in settings
        for trial in setting.trials
    }
    own = steps[steps["index"] == series.index]
    for trial, table in own.groupby("trial", sort=False):
        if column not in table or table[column].isna().all():
            continue
        values = table[column].astype(float)
        if column == "loss":
            values = values / (abs(values.iloc[0]) or 1.0)
        label = None if labeled else f"{SERIES_MARK}{series_label(series)}"
        axis.plot(
            table["step"],
            values,
            theme.style(series.index).dash[1],
            color=color,
            alpha=opacity[str(trial)],
            linewidth=1.1,
            label=label,
        )
        labeled = True


def _kl_axis(axis: Axes, results: SweepResults) -> None:
    largest = largest_kl(results)
    labels = ticks(largest)
    axis.set_xticks([position(kl) for kl in labels], [plain_number(kl) for kl in labels])
    axis.set_xlim(-0.02 * position(largest), 1.03 * position(largest))
    axis.set_xlabel(AXIS_TITLE)
