"""Colors and markers: one place for the page, its charts and the figure files.

The series colors were searched for the largest smallest distance (CIE Lab, at least 20) between
any two under normal vision and simulated protanopia, deuteranopia and tritanopia, for a light and
a dark ground. Shape says the same as color: no two of the first ten series share a marker, and
after eight series colors return with another marker and line.
"""

from __future__ import annotations

from dataclasses import dataclass

LIGHT = {
    "ground": "#ffffff",
    "panel": "#f6f7f9",
    "ink": "#1a1f27",
    "muted": "#5b6472",
    "line": "#d9dde3",
    "grid": "#e7eaee",
    "accent": "#0b5cad",
    "warning": "#9a3412",
    "heat": "#3f8fd6",
    "warm": "#e08a4a",
    "frontier": "#6b7280",
}
DARK = {
    "ground": "#14171c",
    "panel": "#1c2027",
    "ink": "#e8ebf0",
    "muted": "#a0a9b8",
    "line": "#343b46",
    "grid": "#2a303a",
    "accent": "#7fb8f5",
    "warning": "#fdba74",
    "heat": "#1d63a8",
    "warm": "#8f4a18",
    "frontier": "#9aa3b2",
}
SERIES_LIGHT = (
    "#065599",
    "#c12d04",
    "#009459",
    "#d67cb1",
    "#bda202",
    "#213631",
    "#34afff",
    "#97446c",
)
SERIES_DARK = (
    "#a0c8ff",
    "#ff8445",
    "#54eaa2",
    "#bc7ca2",
    "#ffd426",
    "#ecf0f9",
    "#907cf6",
    "#df3d53",
)
RANKS = 6
RANKS_LIGHT = ("#b9d7ef", "#7fb2dc", "#4b8cc4", "#2767a3", "#114678", "#05264a")
RANKS_DARK = ("#24517d", "#3673a9", "#5496ce", "#7fb6e6", "#aed4f5", "#e0f0ff")
"""Shades for the order of strengths within a loss, from the smallest to the largest."""


@dataclass(frozen=True, slots=True)
class Marker:
    """One shape in its three spellings.

    Attributes:
        plotly: plotly's symbol.
        matplotlib: matplotlib's marker.
        path: an SVG path inside the box from -6 to 6.
    """

    plotly: str
    matplotlib: str
    path: str


MARKERS = (
    Marker("circle", "o", "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z"),
    Marker("square", "s", "M-4,-4H4V4H-4Z"),
    Marker("diamond", "D", "M0,-5.5L5.5,0L0,5.5L-5.5,0Z"),
    Marker("triangle-up", "^", "M0,-5L5,4H-5Z"),
    Marker("triangle-down", "v", "M0,5L5,-4H-5Z"),
    Marker("cross", "P", "M-2,-5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z"),
    Marker("x", "X", "M-5,-2.5L-2.5,-5L0,-2.5L2.5,-5L5,-2.5L2.5,0L5,2.5L2.5,5L0,2.5L-2.5,5L-5,2.5L-2.5,0Z"),  # noqa: E501
    Marker("pentagon", "p", "M0,-5.5L5.2,-1.7L3.2,4.5H-3.2L-5.2,-1.7Z"),
    Marker("star", "*", "M0,-6L1.4,-1.9H5.7L2.2,.7L3.5,4.9L0,2.3L-3.5,4.9L-2.2,.7L-5.7,-1.9H-1.4Z"),
    Marker("hexagon", "h", "M0,-5.5L4.8,-2.7V2.7L0,5.5L-4.8,2.7V-2.7Z"),
)  # fmt: skip
DASHES = (("solid", "-"), ("dash", "--"), ("dot", ":"), ("dashdot", "-."))
"""plotly's and matplotlib's spelling."""


@dataclass(frozen=True, slots=True)
class Style:
    """How the series of one index looks.

    Attributes:
        color: index into the series colors.
        marker: its shape.
        dash: plotly's and matplotlib's line style.
    """

    color: int
    marker: Marker
    dash: tuple[str, str]


def style(index: int) -> Style:
    """The look of the series with this index; repeats only after 80 series."""
    return Style(
        index % len(SERIES_LIGHT),
        MARKERS[index % len(MARKERS)],
        DASHES[index // len(SERIES_LIGHT) % len(DASHES)],
    )


def rank_shade(rank: int, count: int) -> int:
    """Shade (0 to `RANKS` - 1) of the strength at this place among ``count`` strengths."""
    return RANKS // 2 if count < 2 else round(rank * (RANKS - 1) / (count - 1))


def custom_properties(dark: bool) -> str:
    """CSS declarations of all colors; the page's script reads the same ones for its charts."""
    series, ranks = (SERIES_DARK, RANKS_DARK) if dark else (SERIES_LIGHT, RANKS_LIGHT)
    named = dict(DARK if dark else LIGHT)
    named |= {f"series-{index}": color for index, color in enumerate(series)}
    named |= {f"rank-{index}": color for index, color in enumerate(ranks)}
    return " ".join(f"--{name}: {color};" for name, color in named.items())
