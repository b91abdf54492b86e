"""Sweep folders of every kind, built once per session; tests that change one copy it first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from dpo_bench.analysis.results import read_sweep
from dpo_bench.report.figures.draw import figure_names
from dpo_bench.report.page import render_page
from dpo_bench.report.view import ReportView, build_view
from dpo_bench.report.write import write_report
from tests.report.sweep_folder import build
from tests.report.sweep_world import CURVES, Sweep

small = functools.partial(Sweep, prompts=64, reference_samples=16)
VARIANTS = {
    "clean": Sweep(),
    "hostile": small(hostile=True),
    "no_reward": small(reward=False),
    "single": small(losses=("dpo",), strengths=1, failed=()),
    "all_failed": small(failed=tuple((loss, i) for loss in CURVES for i in range(5))),
    "two_seeds": small(seeds=(0, 1), failed=(("ipo", 0),), extra={"cdpo": (0.1, 0.3)}),
    "along": small(along=(60, 120)),
    "untrained": small(training_rows=0, unfinished=3),
}

ByName = Callable[[str], Path]
ViewOf = Callable[[str], ReportView]
PageOf = Callable[[str], str]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> ByName:
    """A sweep's folder by the name of its variant, without a report."""
    built: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in built:
            built[name] = build(tmp_path_factory.mktemp(name) / "sweep", VARIANTS[name])
        return built[name]

    return get


@pytest.fixture(scope="session")
def reported(folder_of: ByName) -> ByName:
    """The same with its report."""

    def get(name: str) -> Path:
        return write_report(folder_of(name)).parent

    return get


@pytest.fixture(scope="session")
def view_of(folder_of: ByName) -> ViewOf:
    """What a report on a variant says."""
    made: dict[str, ReportView] = {}

    def get(name: str) -> ReportView:
        if name not in made:
            made[name] = build_view(read_sweep(folder_of(name)))
        return made[name]

    return get


@pytest.fixture(scope="session")
def page_of(view_of: ViewOf) -> PageOf:
    """A variant's page, made without its figure files."""
    made: dict[str, str] = {}

    def get(name: str) -> str:
        if name not in made:
            view = view_of(name)
            made[name] = render_page(view, "0" * 64, figure_names(view), ["report.md"])
        return made[name]

    return get
