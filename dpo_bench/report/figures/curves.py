"""Figure files with curves: reward, win rate and log-ratios against KL; training by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.kl_axis import AXIS_TITLE, position, ticks
from dpo_bench.analysis.loss_curves import LossCurve, kl_position, largest_kl
from dpo_bench.analysis.metrics import CHOSEN, KL, REJECTED, REWARD, WIN_RATE, Metric
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.results import Reference, SweepResults
from dpo_bench.report import theme
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
    """The same on given axes."""
    reference = results.reference
    _kl_axis(axis, results)
    _optimum(axis, reference)
    for one in series:
        _along(axis, curves, one, REWARD)
        _curve(axis, one, REWARD)
    if not reference.reward.is_missing:
        axis.plot(
            [0], [reference.reward.value], "*", color=theme.LIGHT["ink"], markersize=10,
            clip_on=False, label="reference",
        )  # fmt: skip
    axis.set_ylabel(REWARD.axis)


def _optimum(axis: Axes, reference: Reference) -> None:
    """The optimal frontier with its band and its end, and best-of-n."""
    color = theme.LIGHT["frontier"]
    frontier, best = reference.frontier, reference.best_of_n
    x = [position(point.kl) for point in frontier]
    if frontier:
        low, high = [point.low for point in frontier], [point.high for point in frontier]
        axis.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0)
        rewards = [point.reward for point in frontier]
        axis.plot(x, rewards, color=color, linewidth=2, label="optimal frontier")
        axis.annotate(
            f"optimum known to KL {number(frontier[-1].kl, 1)}", (x[-1], high[-1]),
            xytext=(0, 3), textcoords="offset points", color=theme.LIGHT["muted"], fontsize=8,
            horizontalalignment="left" if x[-1] < axis.get_xlim()[1] / 2 else "right",
        )  # fmt: skip
    if best:
        axis.plot(
            [position(point.kl) for point in best], [point.reward for point in best], ":o",
            color=color, linewidth=1.2, markersize=3.5, markerfacecolor="white",
            label="best of n",
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
    """The same on given axes."""
    _kl_axis(axis, results)
    for one in series:
        _along(axis, curves, one, measure)
        _curve(axis, one, measure)
    if measure == WIN_RATE:
        axis.axhline(0.5, color=theme.LIGHT["muted"], linewidth=0.9, linestyle="--", zorder=1)
    axis.set_ylabel(measure.axis)


def draw_displacement(view: ReportView) -> Figure:
    """Chosen and rejected log-ratios against KL."""
    figure, axes = new_figure()
    axis = axes[0][0]
    _kl_axis(axis, view.results)
    axis.axhline(0, color=theme.LIGHT["muted"], linewidth=0.9, linestyle="--", zorder=1)
    for one in view.series:
        _curve(axis, one, CHOSEN)
        _curve(axis, one, REJECTED, filled=False)
    axis.set_ylabel("Log-ratio on held-out pairs (nats)\nfilled: chosen, open: rejected")
    add_legend(figure)
    return figure


def _curve(axis: Axes, series: LossCurve, measure: Metric, filled: bool = True) -> None:
    """A line through the settings, and a marker with intervals for every trial."""
    color, look = theme.SERIES_LIGHT[theme.style(series.index).color], theme.style(series.index)
    center = [(setting.mean(KL.name), setting.mean(measure.name)) for setting in series.settings]
    known = [(position(kl), value) for kl, value in center if kl is not None and value is not None]
    if not known:
        return
    label = f"{SERIES_MARK}{series_label(series)}" if filled else None
    axis.plot(
        [x for x, _ in known], [y for _, y in known], color=color, linewidth=1.6,
        linestyle=look.dash[1] if filled else ":", marker=look.marker.matplotlib, markersize=5.5,
        markerfacecolor=color if filled else "white",
        markeredgecolor="white" if filled else color,
        label=label,
    )  # fmt: skip
    for trial in series.done:
        kl, value = trial.estimate(KL.name), trial.estimate(measure.name)
        if kl.is_missing or value.is_missing:
            continue
        x, y = position(kl.value), value.value
        axis.errorbar(
            x,
            y,
            yerr=_error(value),
            xerr=_error(kl_position(kl)),
            color=color,
            alpha=0.5,
            linewidth=1,
            fmt="none",
        )
        if len(series.done) > len(series.settings):
            axis.plot([x], [y], look.marker.matplotlib, color=color, alpha=0.45, markersize=3.5)


def _along(axis: Axes, curves: CurvesOnPrompts | None, series: LossCurve, measure: Metric) -> None:
    """A small open mark for every policy along training, and a thin line for each step."""
    color = theme.SERIES_LIGHT[theme.style(series.index).color]
    for trial in series.done:
        table = trial.checkpoints
        if "kl" in table and measure.name in table:
            axis.plot(
                [position(kl) for kl in table["kl"]], table[measure.name], "o", color=color,
                alpha=0.6, markersize=2.6, markerfacecolor="none", markeredgewidth=0.7, zorder=1.5,
            )  # fmt: skip
    lines = curves.lines(series, measure) if curves else {}
    for step in sorted(lines)[:-1]:
        x, y = zip(*((position(kl), value) for kl, value in lines[step]), strict=True)
        axis.plot(x, y, color=color, alpha=0.5, linewidth=0.7, zorder=1.5)


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
    for axis, (column, title) in zip(axes[0], _TRAINING, strict=True):
        for one in view.series:
            _training_lines(axis, one, column)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step")
    axes[0][1].set_xlabel("step (the larger the strength, the darker the line)")
    add_legend(figure, axes[0][0])
    return figure


def _training_lines(axis: Axes, series: LossCurve, column: str) -> None:
    color, labeled = theme.SERIES_LIGHT[theme.style(series.index).color], False
    for setting in series.settings:
        opacity = 0.35 + 0.65 * (setting.rank + 1) / len(series.settings)
        for trial in setting.trials:
            table = trial.training
            if not len(table) or column not in table:
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
                alpha=opacity,
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
