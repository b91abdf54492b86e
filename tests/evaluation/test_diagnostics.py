"""Variety, decay and calibration."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.bootstrap import resample_weights
from dpo_bench.contract import get_loss
from dpo_bench.evaluation.calibration import (
    calibration,
    implicit_scale,
    reliability,
    win_probabilities,
)
from dpo_bench.evaluation.diagnostics import decay, degenerate, distinct_by_prompt, repetition
from dpo_bench.experiment import PlannedTrial
from dpo_bench.model.sampling import Response


def test_repetition_of_a_loop_goes_to_one_and_of_distinct_tokens_is_zero() -> None:
    assert repetition(range(50)) == 0
    assert repetition([7] * 103) == pytest.approx(0.99)
    assert repetition([1, 2, 3]) == 0  # no 4-gram to repeat


def test_distinct_is_by_prompt() -> None:
    responses = [
        Response(0, 0, (1, 2, 3), True),
        Response(0, 1, (1, 2, 3), True),
        Response(1, 0, (1, 2, 3), True),
        Response(1, 1, (4, 5, 6), True),
        Response(2, 0, (9,), True),
    ]
    found = distinct_by_prompt(responses, 3)
    assert found[:2].tolist() == [0.5, 1.0]
    assert np.isnan(found[2])


def responses_table(texts: list[str], repeated: float = 0.0, finished: bool = True) -> pd.DataFrame:
    return pd.DataFrame({"response": texts, "finished": finished, "repetition": repeated})


@pytest.mark.parametrize(
    ("policy", "reasons"),
    [
        (responses_table(list("abcdefghij")), []),
        (responses_table(list("abcdefghij"), repeated=0.19), []),
        (responses_table(list("abcdefghij"), repeated=0.3), ["repetition"]),
        (responses_table(["a"] * 5 + list("bcdef")), ["most_common"]),
        (responses_table([" ", "", "  ", *list("abcdefg")]), ["empty"]),
        (responses_table(list("abcdefghij"), finished=False), ["unfinished"]),
    ],
)
def test_degeneration_follows_its_rule(policy: pd.DataFrame, reasons: list[str]) -> None:
    reference = responses_table(list("klmnopqrst"))
    assert degenerate(decay(policy), decay(reference)) == reasons
    assert degenerate(decay(policy), decay(policy)) == []


def test_brier_and_calibration_error_of_known_margins() -> None:
    # Nine of ten pairs are right at p = .8: overconfident by nothing, underconfident by .1.
    margin = np.log(4.0)
    margins = np.array([margin] * 9 + [-margin])
    weights = resample_weights(10, 200, 0)
    found = calibration(margins, 1.0, np.arange(10), weights)
    assert found["brier"].value == pytest.approx((9 * 0.04 + 0.64) / 10)
    assert found["calibration_error"].value == pytest.approx(0.1)
    (bin_,) = reliability(margins, 1.0)
    assert (bin_["n"], bin_["accuracy"]) == (10, 0.9)
    assert bin_["confidence"] == pytest.approx(0.8)


def test_calibrated_rewards_have_next_to_no_calibration_error() -> None:
    generator = np.random.default_rng(0)
    size = 20_000
    margins = generator.normal(0, 20, size)
    right = generator.random(size) < win_probabilities(np.abs(margins), 0.1)
    margins = np.where(right, np.abs(margins), -np.abs(margins))
    prompts = np.arange(size)
    weights = np.full((2, size), 1 / size)
    assert calibration(margins, 0.1, prompts, weights)["calibration_error"].value < 0.02
    assert calibration(margins, 0.3, prompts, weights)["calibration_error"].value > 0.08


@pytest.mark.parametrize(
    ("name", "scale"),
    [("dpo", 0.7), ("cdpo", 0.7), ("ipo", None), ("simpo", None), ("cpo", None), ("slic", None)],
)
def test_only_losses_of_summed_log_ratios_with_a_beta_have_a_scale(
    name: str, scale: float | None
) -> None:
    assert implicit_scale(get_loss(name), PlannedTrial(name, (), 0.7, 0)) == scale
