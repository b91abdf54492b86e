"""The table of metrics is whole: every name once, computed where its entry says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.metrics import BY_NAME, KL, METRICS, Metric


def test_every_name_and_title_stands_once() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({metric.title for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_entries_are_sentences(metric: Metric) -> None:
    assert metric.about.endswith(".")
    assert metric.name == metric.name.lower()
    assert metric.phrase[0] == metric.title[0].lower()


def test_ties_count_half_in_the_accuracy_and_not_as_misordered() -> None:
    pairs = pd.DataFrame({"margin": [2.0, 0.0, -1.0, 0.0]})
    accuracy, misordered = (BY_NAME[name].rows for name in ("preference_accuracy", "misordered"))
    assert accuracy is not None
    assert misordered is not None
    assert accuracy.values(pairs).tolist() == [1.0, 0.5, 0.0, 0.5]
    assert misordered.values(pairs).tolist() == [0.0, 0.0, 1.0, 0.0]


def test_an_unchanged_chosen_response_is_not_displaced() -> None:
    rows = BY_NAME["displaced"].rows
    assert rows is not None
    pairs = pd.DataFrame({"chosen_logratio": [-0.1, 0.0, 0.1]})
    np.testing.assert_array_equal(rows.values(pairs), [1.0, 0.0, 0.0])


def test_a_narrow_interval_asks_for_more_digits_but_not_for_many() -> None:
    assert KL.digits(Estimate(1.0, 0.5, 1.5, 9)) == 2
    assert KL.digits(Estimate(1.0, 0.9995, 1.0005, 9)) == 4
    assert KL.digits(Estimate(1.0, 1 - 1e-9, 1 + 1e-9, 9)) == 4
    assert KL.digits(Estimate(1.0)) == 2
