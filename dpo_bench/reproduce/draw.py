"""The picture of an outcome: its curves with the published points, or published and ours by row."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from dpo_bench.report import theme
from dpo_bench.report.figures.style import SETTINGS, font_text
from dpo_bench.reproduce.record import PublishedRow, Reproduced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")


def draw(outcome: Reproduced) -> dict[str, bytes]:
    """The picture by format; the same outcome gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        height = 4.2 if outcome.curves else 0.9 + 0.24 * len(outcome.rows)
        figure = Figure(figsize=(6.6, height), layout="constrained")
        axis = figure.subplots()
        (_curves if outcome.curves else _dots)(axis, outcome)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        return {kind: _bytes(figure, kind) for kind in FORMATS}


def _bytes(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _curves(axis: Axes, outcome: Reproduced) -> None:
    for index, curve in enumerate(outcome.curves):
        look = theme.style(index)
        color = theme.SERIES_LIGHT[look.color]
        axis.plot(curve.x, curve.y, look.dash[1], color=color, label=font_text(curve.series, 28))
        if curve.low:
            axis.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
        for row in outcome.rows:
            if row.series == curve.series and row.published is not None:
                assert isinstance(row.x, float | int)  # noqa: S101 - curves have numbers for x
                axis.plot(
                    [row.x], [row.published], look.marker.matplotlib, color=color,
                    markerfacecolor="white", markersize=5.5,
                )  # fmt: skip
    if outcome.logarithmic:
        axis.set_xscale("log")
    axis.set_xlabel(outcome.axes[0])
    axis.set_ylabel(outcome.axes[1])
    axis.legend(loc="best", fontsize=8)
    if any(_drawn_point(row, outcome) for row in outcome.rows):
        axis.set_title("lines: reproduced; open markers: published", fontsize=8, loc="left")


def _drawn_point(row: PublishedRow, outcome: Reproduced) -> bool:
    return row.published is not None and any(row.series == curve.series for curve in outcome.curves)


def _dots(axis: Axes, outcome: Reproduced) -> None:
    """A line per row; the horizontal axis is linear around 0 and logarithmic further out."""
    places = range(len(outcome.rows), 0, -1)
    for place, row in zip(places, outcome.rows, strict=True):
        if row.target is not None:
            axis.plot(
                [row.target], [place], "o", color=theme.SERIES_LIGHT[1],
                markerfacecolor="white", markersize=7, linestyle="none",
            )  # fmt: skip
        if row.reproduced is not None:
            axis.plot([row.reproduced], [place], "o", color=theme.SERIES_LIGHT[0], markersize=3.5)
    axis.set_xscale("symlog", linthresh=0.1)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.margins(y=0.02)
    labels = [font_text(f"{row.as_dict()['series']} | {row.x}", 70) for row in outcome.rows]
    axis.set_yticks(list(places), labels, fontsize=6.5)
    axis.set_title("open: published (or rerun), filled: reproduced", fontsize=8, loc="left")
