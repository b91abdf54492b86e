"""Several worlds in one conclusion, held against worlds whose differences are set by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dpo_bench as db
from dpo_bench.analysis.across import (
    COLUMNS,
    Stratum,
    World,
    across_frame,
    among_others,
    holm,
    improvement,
    shared_measure,
    stratified,
)
from dpo_bench.analysis.external import from_frame
from dpo_bench.analysis.points import Point
from dpo_bench.analysis.readings import curves_in_common
from dpo_bench.analysis.results import SweepResults
from dpo_bench.errors import ConfigurationError

KLS = (0.5, 1.0, 2.0, 4.0)
API = Path(__file__).parents[2] / "docs" / "api.md"


def world(
    gains: Mapping[str, float],
    generator: np.random.Generator | None = None,
    *,
    seeds: int = 3,
    run_deviation: float = 0.02,
    kls: tuple[float, ...] = KLS,
    column: str = "reward",
) -> pd.DataFrame:
    """Runs of losses whose reward at every KL differs by their gains, and by luck."""
    generator = generator or np.random.default_rng(5)
    rows = [
        (loss, kl, seed, kl, 0.3 + gain + 0.1 * math.sqrt(kl) + generator.normal(0, run_deviation))
        for loss, gain in gains.items()
        for kl in kls
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["loss", "strength", "seed", "kl", column])


def worlds(*gains: Mapping[str, float], **options: Any) -> list[SweepResults]:
    generator = np.random.default_rng(11)
    return [
        from_frame(world(one, generator, **options), f"world {place}")
        for place, one in enumerate(gains)
    ]


def by_loss(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(loss): rows for loss, rows in found.groupby("loss")}


def test_the_mean_difference_counts_every_world_alike() -> None:
    """Without noise the mean is exact; the world with more runs weighs no more."""
    exact = [
        from_frame(world({"dpo": 0.0, "a": gain}, seeds=seeds, run_deviation=0.0), f"world {gain}")
        for gain, seeds in ((0.05, 2), (0.20, 4))
    ]
    found = across_frame(exact, kl=[1.5])
    assert tuple(found) == COLUMNS
    (row,) = found.to_dict("records")
    assert row["difference"] == pytest.approx(0.125, abs=1e-9)
    assert (row["loss"], row["against"], row["kl"]) == ("a", "dpo", 1.5)
    assert (row["sweeps"], row["better_in"], row["improvement"]) == (2, 2, 1.0)


def test_verdicts_follow_what_was_put_in() -> None:
    """One loss is better everywhere, one worse everywhere; of one the worlds disagree."""
    found = by_loss(
        across_frame(
            worlds(
                {"dpo": 0.0, "up": 0.10, "down": -0.10, "mixed": 0.20},
                {"dpo": 0.0, "up": 0.15, "down": -0.15, "mixed": -0.20},
                {"dpo": 0.0, "up": 0.20, "down": -0.20, "mixed": 0.00},
            )
        )
    )
    assert set(found["up"]["verdict"]) == {"better"}
    assert set(found["down"]["verdict"]) == {"worse"}
    assert set(found["mixed"]["verdict"]) == {"open"}
    assert found["up"]["better_in"].tolist() == [3, 3, 3]
    assert found["down"]["better_in"].tolist() == [0, 0, 0]
    assert (found["mixed"]["high_others"] - found["mixed"]["low_others"]).min() > 0.5
    here = found["mixed"]["high"] - found["mixed"]["low"]
    assert here.max() < 0.1


def test_levels_lie_in_the_range_that_all_worlds_cover() -> None:
    gains = {"dpo": 0.0, "a": 0.1}
    low = from_frame(world(gains, kls=(0.25, 1.0, 2.25)), "low")
    high = from_frame(world(gains, kls=(1.0, 4.0, 9.0)), "high")
    levels = across_frame([low, high])["kl"].to_numpy()
    assert np.sqrt(levels) == pytest.approx([1.125, 1.25, 1.375])
    beyond = from_frame(world(gains, kls=(4.0, 6.0, 9.0)), "beyond")
    with pytest.raises(ConfigurationError, match=r"low 0\.25 to 2\.25; beyond 4 to 9"):
        across_frame([low, beyond])
    (row,) = across_frame([low, beyond], kl=[1.5]).to_dict("records")
    assert (row["sweeps"], row["verdict"]) == (1, "open")
    assert math.isnan(row["difference"])


def test_only_losses_of_two_worlds_are_judged() -> None:
    three = worlds({"dpo": 0.0, "a": 0.1, "b": 0.1}, {"dpo": 0.0, "a": 0.1}, {"dpo": 0.0, "c": 0.1})
    found = across_frame(three, kl=[1.5])
    assert found[["loss", "sweeps"]].values.tolist() == [["a", 2]]
    assert math.isnan(found["low_others"].iloc[0])
    with pytest.raises(ConfigurationError, match="share a loss besides dpo"):
        across_frame(three[1:])


def simulated(gain: float, generator: np.random.Generator) -> Stratum:
    """A loss that is better by its gain, in a world of 24 prompts and 3 seeds of three losses."""
    gains = {"dpo": 0.0, "a": gain, "b": 0.0}
    points = {}
    for loss, height in gains.items():
        liking = generator.normal(0, 0.05, 24)
        points[loss] = [
            Point(
                np.full((3, 24), kl),
                height
                + 0.1 * math.sqrt(kl)
                + liking
                + generator.normal(0, 0.02, (3, 1))
                + generator.normal(0, 0.05, (3, 24)),
            )
            for kl in KLS
        ]
    keys = {loss: loss for loss in gains}
    judged = World("simulated", curves_in_common(points), keys, "dpo", True, True).judged([1.5])
    found = judged.stratum("a", 0)
    assert found
    return found


def test_the_stratified_interval_covers_the_mean_over_these_worlds() -> None:
    """Of 100 triples of worlds; at 95% fewer than 89 have a chance of 1%."""
    generator = np.random.default_rng(3)
    gains = (0.02, 0.10, -0.03)
    found = [stratified([simulated(gain, generator) for gain in gains])[0] for _ in range(100)]
    covered = sum(one.low <= 0.03 <= one.high for one in found)
    assert covered >= 89


def strata(differences: list[float], variance: float = 0.01, seeds: int = 3) -> list[Stratum]:
    runs = np.arange(seeds, dtype=float)
    return [Stratum(one, variance, 0.0, 0.0, runs + one, runs) for one in differences]


def test_the_stratified_error_by_hand() -> None:
    """Four worlds of variance .01: the mean has sqrt(.04) / 4 = .05, and the normal quantile."""
    found, p_value = stratified(strata([0.1, 0.2, 0.3, 0.4]))
    assert found.value == pytest.approx(0.25)
    assert found.high - found.value == pytest.approx(0.05 * NormalDist().inv_cdf(0.975), rel=1e-5)
    assert p_value == pytest.approx(2 * NormalDist().cdf(-5.0), rel=1e-3)


def test_few_degrees_of_freedom_widen_it() -> None:
    """Two variances of .01 on 2 degrees of freedom each: 4 together, whose quantile is 2.776."""
    two = [replace(one, doubt=0.01**2 / 2) for one in strata([0.1, 0.3])]
    found, _ = stratified(two)
    assert found.high - found.value == pytest.approx(2.7764 * math.sqrt(0.02) / 2, rel=1e-4)


def test_others_like_them_by_hand() -> None:
    """Differences .1, .2, .3: standard error .1 / sqrt(3), quantile 4.303 on 2 degrees."""
    found = among_others(strata([0.1, 0.2, 0.3]))
    assert found.high - found.value == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert math.isnan(among_others(strata([0.1, 0.2])).low)


def test_the_probability_of_improvement_is_that_of_normal_runs() -> None:
    """Runs of one deviation: Phi(d / (sqrt 2 sd)), in each world; here the mean of two worlds."""
    generator = np.random.default_rng(7)
    deviation, gaps = 0.02, (0.01, 0.04)
    two = [
        replace(
            one,
            runs=generator.normal(gap, deviation, 2000),
            baseline_runs=generator.normal(0, deviation, 2000),
        )
        for one, gap in zip(strata(list(gaps)), gaps, strict=True)
    ]
    exact = [NormalDist().cdf(gap / (math.sqrt(2) * deviation)) for gap in gaps]
    found = improvement(two, np.random.default_rng(0))
    assert found.value == pytest.approx(sum(exact) / 2, abs=0.015)
    assert found.low < sum(exact) / 2 < found.high
    assert found.high - found.low < 0.04


def test_ties_count_a_half_and_the_interval_is_that_of_the_generator() -> None:
    """Runs 1, 2 against 2, 3: of four pairs one ties, none wins: an eighth."""
    (one,) = strata([0.0], seeds=2)
    one = replace(one, runs=np.array([1.0, 2.0]), baseline_runs=np.array([2.0, 3.0]))
    found = improvement([one, one], np.random.default_rng(0))
    assert found.value == 0.125
    assert improvement([one, one], np.random.default_rng(0)) == found
    assert 0 <= found.low < 0.125 < found.high <= 0.5


def test_one_seed_in_a_world_leaves_it_open() -> None:
    gains = {"dpo": 0.0, "a": 0.3}
    several, one = (from_frame(world(gains, seeds=seeds), f"{seeds} seeds") for seeds in (3, 1))
    row = across_frame([several, one], kl=[1.5]).iloc[0]
    assert row["verdict"] == "open"
    assert row["difference"] == pytest.approx(0.3, abs=0.05)
    assert row[["improvement_low", "low", "p"]].isna().all()


def test_prompts_tell_of_the_policies_at_hand() -> None:
    """With prompts but one seed there is an interval, and still no verdict on losses."""
    generator = np.random.default_rng(1)
    frames = []
    for _ in range(2):
        runs = world({"dpo": 0.0, "a": 0.3}, seeds=1, run_deviation=0.0)
        rows = runs.loc[runs.index.repeat(16)].assign(prompt=np.tile(np.arange(16), len(runs)))
        frames.append(rows.assign(reward=rows["reward"] + generator.normal(0, 0.01, len(rows))))
    row = across_frame([from_frame(one, "table") for one in frames], kl=[1.5]).iloc[0]
    assert row["low"] < 0.3 < row["high"]
    assert row["high"] - row["low"] < 0.02
    assert row["verdict"] == "open"


def test_holm_by_hand() -> None:
    """.01 x 3, .02 x 2, .03 x 1, never falling; a missing one does not count."""
    found = holm(np.array([0.03, 0.01, math.nan, 0.02]))
    assert found[[1, 3, 0]] == pytest.approx([0.03, 0.04, 0.04])
    assert math.isnan(found[2])


def test_rewards_of_different_kinds_are_not_averaged() -> None:
    one, other = worlds({"dpo": 0.0, "a": 0.1}, {"dpo": 0.0, "a": 0.1})
    other = replace(other, scored_by="vader")
    with pytest.raises(ConfigurationError, match=r"a reward and vader.*Judge them by win_rate"):
        across_frame([one, other])
    assert shared_measure([one, other], "win_rate").name == "win_rate"
    with pytest.raises(ConfigurationError, match="reward or win_rate, not kl"):
        across_frame([one, other], metric="kl")


def test_win_rates_are_judged_where_there_is_no_reward() -> None:
    found = across_frame(worlds({"dpo": 0.0, "a": 0.2}, {"dpo": 0.0, "a": 0.2}, column="win"))
    assert set(found["verdict"]) == {"better"}


def test_losses_without_kls_are_judged_as_they_are() -> None:
    frames = [
        world({"dpo": 0.0, "a": 0.2}, np.random.default_rng(place), kls=(1.0,)) for place in (1, 2)
    ]
    plain = [from_frame(one.drop(columns=["kl", "strength"]), "table") for one in frames]
    row = across_frame(plain).iloc[0]
    assert math.isnan(row["kl"])
    assert row["low"] < 0.2 < row["high"]
    with pytest.raises(ConfigurationError, match="has no KLs and others have"):
        across_frame([plain[0], from_frame(frames[1], "other")])


def test_what_cannot_be_judged_is_refused() -> None:
    one, other = worlds({"dpo": 0.0, "a": 0.1}, {"ipo": 0.0, "a": 0.1})
    with pytest.raises(ConfigurationError, match="two sweeps or more"):
        across_frame([one])
    with pytest.raises(ConfigurationError, match="would count twice"):
        across_frame([one, one])
    recorded = [replace(one, conditions={"recipe": 1}, folder=Path(name)) for name in ("x", "y")]
    with pytest.raises(ConfigurationError, match="x and y hold the same trials"):
        across_frame(recorded)
    with pytest.raises(ConfigurationError, match="no loss 'dpo' in world 1"):
        across_frame([one, other])


def test_the_documented_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("reviews", "news"):
        world({"dpo": 0.0, "ipo": 0.2}).to_csv(tmp_path / f"{name}.csv", index=False)
    monkeypatch.chdir(tmp_path)
    section = API.read_text(encoding="utf-8").partition("## Several worlds")[2]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example
    names: dict[str, Any] = {"db": db}
    exec(example[1], names)
    assert set(names["found"]["verdict"]) == {"better"}
