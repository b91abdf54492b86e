"""The pictures as files, SVG and PNG, for papers and for the Markdown report.

Drawn with matplotlib's object interface and its default settings, so that neither a user's
matplotlibrc nor an open pyplot session changes them; the same data gives the same bytes.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dpo_bench.analysis.metrics import ACCURACY, CHOSEN, REWARD, WIN_RATE, headline
from dpo_bench.report.figures.curves import (
    draw_against_kl,
    draw_displacement,
    draw_frontier,
    draw_training,
)
from dpo_bench.report.figures.panels import draw_differences, draw_heat_map
from dpo_bench.report.figures.style import COLUMN, SETTINGS
from dpo_bench.report.view import ReportView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
PAPER_FORMATS = ("pdf", "svg")
_DATED = {
    "svg": ("Date", "Creator"),
    "png": ("Software",),
    "pdf": ("CreationDate", "Creator", "Producer"),
}
"""what a format would record besides the picture"""
NAMES = (
    "frontier",
    WIN_RATE.name,
    ACCURACY.name,
    "differences",
    "heat_map",
    "displacement",
    "training",
)
"""every name that a figure can have"""

Drawing = Callable[[ReportView], "Figure"]


def draw_figures(view: ReportView) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Every picture that this sweep gives: its name and its bytes by format."""
    for name, drawing in _drawings(view):
        yield name, drawn(view, drawing)


def draw_paper_figures(view: ReportView) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The pictures of `draw_figures` at a column's width, as vector files with fonts inside."""
    for name, drawing in _drawings(view):
        yield name, drawn(view, drawing, PAPER_FORMATS, COLUMN)


def figure_names(view: ReportView) -> tuple[str, ...]:
    """The names of `draw_figures`, without drawing."""
    return tuple(name for name, _ in _drawings(view))


def _drawings(view: ReportView) -> Iterator[tuple[str, Drawing]]:
    for measure in headline(view.results) if view.results.has_kl else ():
        if measure == REWARD:
            yield "frontier", draw_frontier
        else:
            yield measure.name, functools.partial(draw_against_kl, measure=measure)
    if view.matched is not None:
        yield "differences", draw_differences
    if view.heat_maps:
        yield "heat_map", draw_heat_map
    if view.results.has_kl and view.results.has(CHOSEN.name):
        yield "displacement", draw_displacement
    if any(len(trial.training_log) for trial in view.results.trials):
        yield "training", draw_training


def drawn(
    view: ReportView,
    drawing: Drawing,
    formats: Sequence[str] = FORMATS,
    settings: dict[Any, Any] = SETTINGS,
) -> dict[str, bytes]:
    """One picture's bytes by format."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        figure = drawing(view)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, for both formats
        return {kind: _bytes(figure, kind) for kind in formats}


def _bytes(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata: dict[str, Any] = dict.fromkeys(_DATED[kind])
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
