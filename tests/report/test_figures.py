"""Figure files: complete, the same bytes every time, indifferent to the user's settings."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib as mpl
import pytest
from PIL import Image

from dpo_bench.report.figures.draw import FORMATS, NAMES, draw_figures, figure_names
from dpo_bench.report.figures.style import font_text
from tests.report.conftest import VARIANTS, ViewOf

EXPECTED = {
    "clean": ["frontier", "win_rate", "differences", "heat_map", "displacement", "training"],
    "hostile": ["frontier", "win_rate", "differences", "heat_map", "displacement", "training"],
    "no_reward": ["preference_accuracy", "heat_map", "displacement", "training"],
    "single": ["frontier", "win_rate", "heat_map", "displacement", "training"],
    "all_failed": ["training"],
    "two_seeds": ["frontier", "win_rate", "differences", "heat_map", "displacement", "training"],
    "along": ["frontier", "win_rate", "differences", "heat_map", "displacement", "training"],
    "untrained": ["frontier", "win_rate", "differences", "heat_map", "displacement"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_figures_of_a_sweep(view_of: ViewOf, variant: str) -> None:
    assert list(figure_names(view_of(variant))) == EXPECTED[variant]
    assert set(EXPECTED[variant]) <= set(NAMES)


@pytest.fixture(scope="module")
def drawn(view_of: ViewOf) -> dict[str, dict[str, bytes]]:
    return dict(draw_figures(view_of("single")))


def test_bytes_do_not_depend_on_the_users_matplotlib(
    view_of: ViewOf, drawn: dict[str, dict[str, bytes]]
) -> None:
    other: dict[Any, Any] = {
        "font.size": 20,
        "svg.hashsalt": "other",
        "axes.grid": False,
        "savefig.dpi": 40,
    }
    with mpl.rc_context(other):
        name, files = next(draw_figures(view_of("single")))
        assert mpl.rcParams["font.size"] == 20
    assert files == drawn[name]


def test_files_are_pictures_without_dates(drawn: dict[str, dict[str, bytes]]) -> None:
    assert list(drawn) == EXPECTED["single"]
    for name, files in drawn.items():
        assert tuple(files) == FORMATS
        root = ET.fromstring(files["svg"])
        assert root.tag.endswith("svg"), name
        assert b"<dc:date>" not in files["svg"]
        with Image.open(io.BytesIO(files["png"])) as image:
            assert min(image.size) > 200
            assert image.info.keys() <= {"dpi"}


def test_names_that_the_font_lacks_are_drawn_with_question_marks() -> None:
    assert font_text("dpo 你好 \N{PILE OF POO}", 30) == "dpo ?? ?"
    assert font_text("_x$y$" * 10, 12) == "_x$y$_x$y$_…"
