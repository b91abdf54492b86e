"""The benchmark of shared lower layers: its statistics against figures made by hand, its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.lower_layers.__main__ import few, main, study
from benchmarks.lower_layers.page import said, verdict, write_page
from benchmarks.lower_layers.ranking import Array, Ranked, agreement, disagreements, resampled
from benchmarks.lower_layers.speed import COUNTS, LLAMA, WAYS, lines, measure, table
from benchmarks.lower_layers.worlds import (
    FULL,
    SMOLLM2_STUDY,
    UPPER,
    WHOLE,
    WORLD,
    Condition,
    Study,
)
from benchmarks.versus_trl.workloads import quick
from dpo_bench.worlds.reference_policy import Recipe


def ranked(means: Mapping[str, float], noise: float, seed: int) -> Ranked:
    """Losses of these mean rewards with three seeds and 64 prompts."""
    generator = np.random.default_rng(seed)
    values = {}
    for loss, mean in means.items():
        one = generator.normal(0, noise, (3, 64))
        values[loss] = mean + one - one.mean()
    return Ranked(values, {})


MEANS = {"a": 0.1, "b": 0.3, "c": 0.5, "d": 0.7}


def test_orders_that_are_far_beyond_noise_agree_or_are_reversed() -> None:
    backwards = dict(zip(MEANS, reversed(MEANS.values()), strict=True))
    found = agreement(
        {
            "one": {1.0: ranked(MEANS, 0.01, 1)},
            "other": {1.0: ranked(MEANS, 0.01, 2)},
            "turned": {1.0: ranked(backwards, 0.01, 3)},
        }
    )
    alike, turned = (row for row in found.to_dict("records") if row["first"] == "one")
    assert [alike[name] for name in ("second", "tau", "low", "high")] == ["other", 1, 1, 1]
    assert [turned[name] for name in ("second", "tau", "low", "high")] == ["turned", -1, -1, -1]
    assert alike["regret"] == 0
    # What is best when turned is worst: .7 - .1.
    assert turned["regret"] == pytest.approx(0.6)


def test_tau_is_counted_by_pairs_and_losses_that_one_lacks_are_left_out() -> None:
    """One of six pairs stands the other way: (5 - 1) / 6; noise makes an interval of it."""
    changed = {**MEANS, "b": 0.6, "e": 0.2}
    found = agreement(
        {"one": {1.0: ranked(MEANS, 0.6, 1)}, "two": {1.0: ranked(changed, 0.6, 2)}}
    ).iloc[0]
    assert found["losses"] == 4
    assert found["tau"] == pytest.approx(4 / 6)
    assert found["low"] < 4 / 6 <= found["high"]


def test_resamples_of_few_seeds_are_as_wide_as_the_seeds_say() -> None:
    """Equal prompts: the variance of the mean of three seeds is s^2 / 3, s^2 with n - 1."""
    values: Array = np.repeat([[0.0], [1.0], [5.0]], 8, axis=1)
    generator = np.random.default_rng(0)
    seeds = generator.multinomial(3, [1 / 3] * 3, 40_000) / 3
    prompts = np.full((40_000, 8), 1 / 8)
    found = resampled(values, prompts, seeds)
    assert found.mean() == pytest.approx(2, abs=0.02)
    assert found.var() == pytest.approx(np.var([0, 1, 5], ddof=1) / 3, rel=0.03)
    assert resampled(values, prompts[:1], np.full((1, 3), 1 / 3))[0] == pytest.approx(2)


SAID = pd.DataFrame(
    {
        WHOLE: ["better", "better", "open", "worse", "same", "open"],
        FULL: ["better", "better", "open", "worse", "same", "open"],
        UPPER: ["better", "open", "open", "better", "better", "same"],
    }
)


def test_disagreements_are_counted_by_kind() -> None:
    assert disagreements(SAID, WHOLE, UPPER) == {
        "decided alike": 1,
        "decided the other way": 1,
        "open in one": 2,
        "open in both": 2,
    }


def taus(low: float, tau: float, high: float) -> pd.DataFrame:
    rows = [(kl, first, UPPER, tau, low, high) for kl in (0.5, 1) for first in (WHOLE, FULL)]
    return pd.DataFrame(rows, columns=["kl", "first", "second", "tau", "low", "high"])


@pytest.mark.parametrize(
    ("found", "said_rows", "word"),
    [
        (taus(0.6, 0.8, 1), slice(0, 3), "It survives"),
        (taus(0.2, 0.6, 0.9), slice(0, 3), "Open"),
        (taus(-0.2, 0.2, 0.4), slice(0, 3), "It does not survive"),
        (taus(0.6, 0.8, 1), slice(0, 6), "It does not survive"),  # a verdict is turned round
    ],
)
def test_a_verdict_follows_from_intervals_and_reversals(
    found: pd.DataFrame, said_rows: slice, word: str
) -> None:
    assert verdict(found, SAID[said_rows])[0] == word


def test_without_a_study_the_page_says_so(tmp_path: Path) -> None:
    assert said(tmp_path, WORLD) == "**Not measured yet.**"
    assert "**Not measured yet.**" in write_page(tmp_path).read_text("utf-8").splitlines()[2]


def test_an_unknown_part_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--parts", "sped", "--out", str(tmp_path)])
    assert "there is no part 'sped'" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_take_turns_and_both_upper_ways_come_to_the_same_losses(tmp_path: Path) -> None:
    small = replace(quick(LLAMA), layers=4)
    kept = table(list(measure(small, turns=1, most=COUNTS[1])))
    assert sorted(kept["trials"].unique()) == list(COUNTS[:2])
    assert set(kept["way"]) == set(WAYS)
    assert (kept["seconds"] > 0).all()
    losses = kept[kept["way"] != "full LoRA"].groupby("trials")["loss"]
    assert (losses.max() - losses.min()).max() < 1e-4
    assert kept["loss"].nunique() > 2
    kept.to_csv(tmp_path / "speed.csv", index=False)
    assert "but for rounding" in write_page(tmp_path).read_text("utf-8")


def test_further_trials_are_told_from_the_first() -> None:
    """Seconds so far: the first trial took 10, each of the three behind it 4."""
    kept = pd.DataFrame(
        [("m", way, 0, trials, seconds, 2**20, 0.5)
         for way, share in zip(WAYS, (1, 0.5, 0.25), strict=True)
         for trials, seconds in ((1, 10 * share), (4, 22 * share))],
        columns=["model", "way", "turn", "trials", "seconds", "bytes", "loss"],
    )  # fmt: skip
    found = list(lines(kept))
    names = list(WAYS)
    assert f"| m | {names[1]} | 4 | 2.75 | 0.50 | 1 |" in found
    assert f"| m | {names[0]} | each further | 4.00 | 1.00 | 1 |" in found
    assert f"| m | {names[2]} | each further | 1.00 | 0.25 | 1 |" in found


@pytest.mark.slow
def test_a_few_trials_are_shown_and_not_ranked(tmp_path: Path) -> None:
    plan = replace(
        SMOLLM2_STUDY,
        policy="world:reviews",
        conditions={FULL: SMOLLM2_STUDY.conditions[FULL]},
        losses=("dpo", "hinge"),
    )
    few(plan, tmp_path, tmp_path / "sweeps")
    page = write_page(tmp_path).read_text("utf-8")
    assert "nothing is ranked here" in page
    assert "| LoRA, all layers | hinge | 0." in page


@pytest.mark.slow
def test_a_small_study_runs_to_its_page(tmp_path: Path) -> None:
    lora = {"rank": 4, "target_modules": ["q_proj", "v_proj"]}
    plan: Study = replace(
        WORLD,
        losses=("dpo", "hinge"),
        policy=Recipe(layers=2, steps=40, width=32, feed_forward=48),
        conditions={
            WHOLE: Condition({"learning_rate": 1.2e-3}, (0,)),
            FULL: Condition({"learning_rate": 6e-3, "lora": lora}, (0,)),
            UPPER: Condition({"learning_rate": 3e-2, "lora": {**lora, "layers": "top:1"}}, (0,)),
        },
        training={"pairs_per_step": 8, "steps": 10},
        evaluation={
            "prompts": 8,
            "samples_per_prompt": 2,
            "reference_samples": 4,
            "max_new_tokens": 8,
            "resamples": 100,
        },
        levels=(0.1, 0.4),
        search={"trials_per_loss": 12},
    )
    study(plan, tmp_path, tmp_path / "sweeps")
    page = write_page(tmp_path, plan).read_text("utf-8")
    assert "LoRA, upper quarter" in page
    found = pd.read_csv(tmp_path / "world-agreement.csv")
    assert len(found) == 2 * 3  # KLs x pairs of conditions
    assert (found["losses"] == 2).any()
