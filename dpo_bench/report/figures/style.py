"""What all figure files share: settings, labels that the font can draw, the legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.report import theme
from dpo_bench.wording import clipped, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"
"""travels with matplotlib, so that every machine draws the same"""
SETTINGS: dict[Any, Any] = {
    "figure.facecolor": "white",
    "font.family": FONT,
    "font.size": 9,
    "figure.figsize": (6.6, 4.2),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": theme.LIGHT["muted"],
    "axes.grid": True,
    "grid.color": theme.LIGHT["grid"],
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "dpo_bench",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "savefig.dpi": 160,
}
COLUMN: dict[Any, Any] = {
    **SETTINGS,
    "font.size": 7,
    "figure.figsize": (3.35, 2.5),
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
}
"""for a paper: a column's width (inches), fonts embedded as TrueType; panels span two columns"""
_PANELS = 2.08
"""widest picture, in columns"""
SERIES_MARK = "series: "
"""begins the artist's label of a series, which may itself begin with an underscore"""
FIXED_LABELS = ("optimal frontier", "best of n", "reference")
_KEY_INCHES, _CHARACTER_INCHES, _ROW_INCHES = 0.65, 0.075, 0.2
"""what a key, a character of its name and a row of keys take in a legend"""
_LABEL_LIMIT = 28
"""characters of a series' label in a legend"""


def new_figure(
    width: float = 6.6, height: float = 4.2, columns: int = 1, rows: int = 1
) -> tuple[Figure, Any]:
    """A figure with its axes [rows, columns]; inches, where one plain picture takes 6.6 x 4.2.

    Where the settings' own size is smaller it shrinks along, less in height than in width, because
    text shrinks less than either.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    full = mpl.rcParams["figure.figsize"]
    share = full[0] / 6.6
    size = (min(width * share, _PANELS * full[0]), height * max(share, full[1] / 4.2))
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def add_legend(figure: Figure, axis: Axes | None = None) -> None:
    """Names under the picture, through handles: matplotlib hides labels that begin with "_"."""
    source = axis or figure.axes[0]
    handles = [line for line in source.get_lines() if str(line.get_label()).startswith(SERIES_MARK)]
    others = [line for line in source.get_lines() if str(line.get_label()) in FIXED_LABELS]
    names = [str(line.get_label()).removeprefix(SERIES_MARK) for line in [*handles, *others]]
    if not names:
        return
    scale = _font_scale()
    width = scale * (_KEY_INCHES + _CHARACTER_INCHES * max(map(len, names)))
    columns = max(1, min(len(names), int(figure.get_figwidth() / width)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + scale * _ROW_INCHES * max(rows - 2, 0))
    figure.legend([*handles, *others], names, loc="outside lower center", ncols=columns)


def _font_scale() -> float:
    import matplotlib as mpl

    return float(mpl.rcParams["font.size"]) / 9


def series_label(series: LossCurve) -> str:
    """A series' name, cut to fit a legend."""
    return font_text(series.label, _LABEL_LIMIT)


def font_text(text: str, limit: int) -> str:
    """Text cut to so many characters, with a question mark for what the font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    glyphs = get_font(findfont(FontProperties(family=FONT))).get_charmap()
    return drawable(clipped(text, limit), glyphs)
