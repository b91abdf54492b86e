"""Colors stay apart for color-blind readers and against the ground; markers repeat late."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from dpo_bench.report import theme

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# Machado, Oliveira and Fernandes 2009, severity 1, in linear RGB
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color: str) -> Array:
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: Array) -> Array:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(first: str, second: str) -> float:
    lights = sorted(float(TO_XYZ[1] @ linear(color)) for color in (first, second))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colors", [theme.SERIES_LIGHT, theme.SERIES_DARK], ids=["light", "dark"])
def test_series_colors_differ_for_every_vision(colors: tuple[str, ...], vision: str) -> None:
    seen = [lab(VISION[vision] @ linear(color)) for color in colors]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 20


@pytest.mark.parametrize("named", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_text_reads_against_the_ground(named: dict[str, str]) -> None:
    for text, ground in itertools.product(
        ("ink", "muted", "accent", "warning"), ("ground", "panel")
    ):
        assert contrast(named[text], named[ground]) >= 4.5, (text, ground)


def test_marks_are_seen_against_the_ground() -> None:
    for colors, named in ((theme.SERIES_LIGHT, theme.LIGHT), (theme.SERIES_DARK, theme.DARK)):
        assert min(contrast(color, named["ground"]) for color in colors) >= 2.4


def test_the_first_eighty_series_all_look_different() -> None:
    looks = {
        (theme.style(i).color, theme.style(i).marker.plotly, theme.style(i).dash) for i in range(80)
    }
    assert len(looks) == 80


def test_shades_run_from_the_smallest_to_the_largest_strength() -> None:
    assert [theme.rank_shade(rank, 5) for rank in range(5)] == [0, 1, 2, 4, 5]
    assert theme.rank_shade(0, 1) == theme.RANKS // 2
    assert max(theme.rank_shade(rank, 40) for rank in range(40)) == theme.RANKS - 1


@pytest.mark.parametrize("dark", [False, True])
def test_every_color_is_a_property_of_the_page(dark: bool) -> None:
    names = re.findall(r"--([\w-]+): #[0-9a-f]{6};", theme.custom_properties(dark))
    expected = {*theme.LIGHT, *(f"series-{i}" for i in range(8)), *(f"rank-{i}" for i in range(6))}
    assert set(names) == expected
