from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from dpo_bench.analysis.bootstrap import resample_weights
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import REWARD
from dpo_bench.analysis.points import Point
from dpo_bench.report.sections.overoptimization import overoptimization_section
from dpo_bench.report.sections.section import ReportSection
from tests.report.conftest import ViewOf

KLS = (0.3, 1.0, 3.0, 8.0, 16.0, 30.0)


def _section(view_of: ViewOf, slope: float, turn: float, power: float) -> ReportSection:
    """The section of a sweep whose policies gain slope d^power - turn d^(2 power)."""
    view = view_of("clean")
    curves = view.curves
    assert curves is not None
    base = view.results.reference.samples.groupby("prompt_id")["reward"].mean()
    prompts = base.index.sort_values()
    reference = base.reindex(prompts).to_numpy(float)
    noise = np.random.default_rng(0).normal(0, 0.02, (len(KLS), len(prompts)))
    points = [
        Point(
            np.full(len(prompts), kl),
            reference + slope * kl ** (power / 2) - turn * kl**power + noise[index],
        )
        for index, kl in enumerate(KLS)
    ]
    curves = dataclasses.replace(
        curves,
        by_measure={REWARD.name: {"0": points}},
        prompts=prompts,
        weights=resample_weights(len(prompts), 500, 0),
    )
    first: LossCurve = dataclasses.replace(view.series[0], index=0)
    section = overoptimization_section(view.results, [first], curves)
    assert section is not None
    return section


def test_residuals_of_all_forms_stand_beside_the_peak(view_of: ViewOf) -> None:
    section = _section(view_of, 0.5, 0.05, 1.0)
    titles = [title for title, _ in section.table.columns]
    assert titles[1:5] == ["Peak", "Gao et al.", "Quadratic in d", "Quadratic in KL"]
    cells = section.table.rows[0].cells
    residuals = [float(cell.value or math.nan) for cell in cells[2:5]]
    assert residuals[1] == min(residuals)
    assert "at most 1.5 times the smallest" in section.about


def test_gaos_peak_is_not_given_where_another_form_fits(view_of: ViewOf) -> None:
    peak, gao, quadratic = _section(view_of, 0.5, 0.05, 1.0).table.rows[0].cells[1:4]
    # .5 d - .05 d^2 is largest at d = 5, KL 25
    assert float(peak.value or 0) == pytest.approx(25, rel=0.05)
    assert "Gao's form fits worse than the quadratic in d" in peak.detail
    assert "Gao's form misses a policy by more than its own error" in peak.detail
    assert "left out" in gao.detail
    assert "left out" not in quadratic.detail
    assert "peak 2" in quadratic.detail


def test_a_series_without_a_peak_says_why(view_of: ViewOf) -> None:
    peak = _section(view_of, 0.5, 0.0, 1.0).table.rows[0].cells[1]
    assert peak.text == "none"
    assert "rises up to KL 30" in peak.detail
