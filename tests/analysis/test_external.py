"""Results of other programs: read, refused where they cannot be, and compared as a sweep's are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpo_bench.analysis.compare import comparison_frame
from dpo_bench.analysis.external import from_frame, read_file
from dpo_bench.analysis.metrics import REWARD, WIN_RATE
from dpo_bench.errors import ConfigurationError, DataError

BETAS = {0.1: 6.0, 0.3: 3.0, 1.0: 1.0}


def table(prompts: int = 40, seeds: int = 3, gain: float = 0.3) -> pd.DataFrame:
    """Two losses whose rewards differ by ``gain`` at every KL, the same for all prompts."""
    random = np.random.default_rng(0)
    taste = random.normal(size=prompts)
    rows = [
        (loss, beta, seed, f"p{prompt}", kl, base + np.sqrt(kl) + taste[prompt] + wobble[seed])
        for loss, base, wobble in (
            ("dpo", 0.0, random.normal(0, 0.01, seeds)),
            ("ours", gain, random.normal(0, 0.01, seeds)),
        )
        for beta, kl in BETAS.items()
        for seed in range(seeds)
        for prompt in range(prompts)
    ]
    return pd.DataFrame(rows, columns=["loss", "strength", "seed", "prompt", "kl", "reward"])


def compared(frame: pd.DataFrame, kl: float) -> pd.Series:
    found = comparison_frame(from_frame(frame), REWARD, baseline="dpo", kl=[kl])
    assert list(found.columns) == [
        *("loss", "against", "kl", "difference", "low", "high", "p", "verdict")
    ]
    (row,) = found.to_dict("records")
    return pd.Series(row)


def test_a_known_difference_is_found_between_grid_points() -> None:
    row = compared(table(), kl=2.0)
    assert (row["loss"], row["against"], row["verdict"]) == ("ours", "dpo", "better")
    assert row["difference"] == pytest.approx(0.3, abs=0.02)
    assert row["low"] < 0.3 < row["high"]


def test_the_sign_is_that_of_the_loss_minus_the_baseline() -> None:
    assert compared(table(gain=-0.3), kl=2.0)["verdict"] == "worse"


def test_at_a_grid_point_runs_alone_give_the_paired_t_test() -> None:
    """One figure a run, one strength: the interval is that of differences paired by seed."""
    runs = table().groupby(["loss", "strength", "seed"])[["kl", "reward"]].mean().reset_index()
    runs = runs[runs["strength"] == 0.3]
    row = compared(runs, kl=3.0)
    at = runs.pivot(index="seed", columns="loss", values="reward")
    expected = stats.ttest_rel(at["ours"], at["dpo"])
    ends = expected.confidence_interval()
    assert row["p"] == pytest.approx(expected.pvalue, abs=0.003)
    width = ends.high - ends.low
    assert (row["low"], row["high"]) == pytest.approx((ends.low, ends.high), abs=0.1 * width)


def test_one_run_of_each_says_nothing_of_how_sure_it_is() -> None:
    runs = table(seeds=1).groupby(["loss", "strength", "seed"])[["kl", "reward"]].mean()
    row = compared(runs.reset_index(), kl=3.0)
    assert row["difference"] == pytest.approx(0.3, abs=0.05)
    assert np.isnan(row["low"])
    assert row["verdict"] == "open"


def test_nothing_is_extrapolated() -> None:
    row = compared(table(), kl=8.0)
    assert np.isnan(row["difference"])
    assert row["verdict"] == "open"


def test_within_a_margin_losses_are_the_same() -> None:
    results = from_frame(table(gain=0.0))
    found = comparison_frame(results, REWARD, baseline="dpo", kl=[2.0], same_within=0.1)
    assert found["verdict"].tolist() == ["same"]
    assert comparison_frame(results, REWARD, kl=[2.0])["verdict"].tolist() == ["open"]


def test_several_rows_of_a_prompt_are_its_samples() -> None:
    once = table()
    halves = pd.concat([once.assign(reward=once["reward"] + side) for side in (-1.0, 1.0)])
    pd.testing.assert_series_equal(compared(once, 2.0), compared(halves, 2.0))


def test_without_kl_single_policies_are_compared_as_they_are() -> None:
    frame = table()
    frame = frame[frame["strength"] == 0.3].drop(columns=["kl"])
    (row,) = comparison_frame(from_frame(frame), REWARD, baseline="dpo").to_dict("records")
    assert np.isnan(row["kl"])
    assert row["difference"] == pytest.approx(0.3, abs=0.02)


def test_without_kl_several_strengths_are_not_comparable() -> None:
    results = from_frame(table().drop(columns=["kl"]))
    with pytest.raises(ConfigurationError, match="no KL is known"):
        comparison_frame(results, REWARD)


def test_an_unknown_baseline_names_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="dpo, ours"):
        comparison_frame(from_frame(table()), REWARD, baseline="ipo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="loss"), "lacks the column loss"),
        (lambda frame: frame.drop(columns="reward"), "neither a column reward nor win"),
        (lambda frame: frame.assign(kl=float("nan")), "row 1: kl is nan, no number"),
        (lambda frame: frame.assign(reward="high"), "row 1: reward is 'high', no number"),
        (lambda frame: frame.assign(seed=0.5), "row 1: seed is 0.5, no whole number"),
        (lambda frame: frame.assign(win=2.0), "row 1: win is 2, no share"),
        (lambda frame: frame.drop(columns="prompt"), "row 2: a second row of dpo"),
        (lambda frame: frame.iloc[:0], "has no rows"),
    ],
)
def test_what_cannot_be_used_is_named(change: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_frame(change(table()))  # type: ignore[operator]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_files_give_what_the_frame_gives(tmp_path: Path, ending: str) -> None:
    frame, file = table(), tmp_path / f"runs.{ending}"
    if ending == "parquet":
        frame.to_parquet(file)
    elif ending == "csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_json(file, orient="records", lines=True)
    whole = comparison_frame(from_frame(frame), REWARD, kl=[2.0])
    pd.testing.assert_frame_equal(comparison_frame(read_file(file), REWARD, kl=[2.0]), whole)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no file"):
        read_file(tmp_path / "runs.csv")
    (tmp_path / "runs.xls").write_text("")
    with pytest.raises(ConfigurationError, match=r"give a \.parquet"):
        read_file(tmp_path / "runs.xls")
    (tmp_path / "annotations.json").write_text('[{"instruction": "a"}]')
    with pytest.raises(DataError, match="annotation 1 lacks generator_2"):
        read_file(tmp_path / "annotations.json")


def test_annotations_of_alpaca_eval_give_win_rates_and_lengths(tmp_path: Path) -> None:
    """Preferences run from 1 (the baseline's output) to 2 (the model's); 0 is a tie."""
    preferences: list[float | None] = [2.0, 1.0, 0, 1.75, None]
    rows = [
        {
            "instruction": f"task {number}",
            "output_1": "x" * 10,
            "generator_1": "baseline",
            "output_2": "y" * (10 + number),
            "generator_2": "model",
            "preference": preference,
        }
        for number, preference in enumerate(preferences)
    ]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(rows))
    (trial,) = read_file(file).trials
    assert trial.value(WIN_RATE.name) == pytest.approx((1 + 0 + 0.5 + 0.75) / 4)
    assert trial.samples["extra_length"].tolist() == [0, 1, 2, 3]
