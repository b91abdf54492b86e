"""Figure files that draw tables: differences at matched KL, figures by loss and strength."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpo_bench.report import theme
from dpo_bench.report.figures.style import font_text, new_figure, series_label
from dpo_bench.report.matched_table import DifferenceCell
from dpo_bench.report.table_values import Cell, HeatMap
from dpo_bench.report.view import ReportView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_differences(view: ReportView) -> Figure:
    """Every loss's difference from the baseline with its own interval, a panel per KL.

    Raises:
        ValueError: the view has no comparison.
    """
    matched = view.matched
    if matched is None:
        raise ValueError("there is no comparison to draw")
    count = len(matched.differences.rows)
    labels = [font_text(row.cells[0].text, 40) for row in matched.differences.rows]
    figure, axes = new_figure(6.6, 0.9 + 0.27 * count, columns=len(matched.levels))
    for column, (axis, title) in enumerate(zip(axes[0], matched.levels, strict=True)):
        axis.axvline(0, color=theme.LIGHT["muted"], linewidth=0.9, linestyle="--")
        for place, row in enumerate(matched.differences.rows):
            _difference(axis, place, row.cells[1 + column], matched.reach)
        axis.set_title(f"{title} nats", fontsize=9)
        axis.set_xlim(-1.08 * matched.reach, 1.08 * matched.reach)
        axis.set_ylim(count - 0.5, -0.5)
        axis.set_yticks(range(count), [""] * count if column else labels)
        axis.tick_params(axis="y", length=0)
    figure.supxlabel(f"difference in {matched.measure.phrase}; blue: losses differ", fontsize=9)
    return figure


def _difference(axis: Axes, row: int, cell: Cell, reach: float) -> None:
    if not isinstance(cell, DifferenceCell) or cell.strip is None:
        return
    low, value, high = ((2 * end - 1) * reach for end in cell.strip)
    color = theme.LIGHT["accent" if cell.strong else "muted"]
    axis.plot([low, high], [row, row], color=color, linewidth=1.8)
    axis.plot([value], [row], "o", color=color, markersize=4.5)


def draw_heat_map(view: ReportView) -> Figure:
    """The first measures by loss and order of strength, a panel per measure."""
    shown = view.heat_maps[:3]
    rows = len(shown[0].rows)
    width = 1.6 + 0.85 * shown[0].ranks
    figure, axes = new_figure(width * len(shown) ** 0.9, 0.9 + 0.5 * rows, columns=len(shown))
    for column, heat_map in enumerate(shown):
        plot_heat_map(axes[0][column], heat_map, labeled=column == 0)
    return figure


def plot_heat_map(axis: Axes, heat_map: HeatMap, labeled: bool = True) -> None:
    """One measure by loss and order of strength, on given axes."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("heat", ["#ffffff", theme.LIGHT["heat"]])
    for row, (_, cells) in enumerate(heat_map.rows):
        for column, one in enumerate(cells):
            color = "#ffffff" if one.share is None else shades(0.75 * one.share)
            axis.fill_between(
                [column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=color, linewidth=0
            )
            axis.text(column, row, f"{one.cell.text}\n", ha="center", va="center", fontsize=8)
            axis.text(
                column,
                row,
                f"\n{font_text(one.strength, 12)}",
                ha="center",
                va="center",
                fontsize=6,
                color=theme.LIGHT["muted"],
            )
    labels = [series_label(series) for series, _ in heat_map.rows]
    axis.set_yticks(range(len(labels)), labels if labeled else [""] * len(labels))
    axis.set_xticks([])
    axis.set_xlabel("strength: smallest to largest", fontsize=8)
    axis.set_xlim(-0.5, heat_map.ranks - 0.5)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_title(heat_map.measure.axis, fontsize=9)
    axis.grid(visible=False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
