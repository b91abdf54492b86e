"""DiscoPOP's claims by a table whose truths are known: the authors' own is not shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpo_bench.errors import DataError
from dpo_bench.reproduce.entries import find_experiment
from dpo_bench.reproduce.raw.discopop_imdb import Claim, Part, Sweep, welch
from dpo_bench.reproduce.record import PublishedRow

ENTRY = find_experiment("discopop-imdb")
BETAS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LOSSES = ("dpo", "hinge", "aqfl", "padll", "lrml")
Table = pd.DataFrame


def table(gain: float = 0.02, *, again: bool = True) -> Table:
    """Reward follows KL, KL falls with beta; LRML earns ``gain`` more at two thirds of the KL.

    As in the paper LRML collapses at beta .01 and has no figures from 2.5 on. AQFL occurs twice.
    """
    random = np.random.default_rng(0)
    rows = []
    for loss in LOSSES + (("aqfl",) if again else ()):
        for beta in BETAS:
            own = loss == "lrml"
            kl = 0.05 / beta**0.7 * (2 / 3 if own else 1)
            level = 0.99 - 0.06 / (1 + 20 * kl) + (gain if own else 0)
            for seed in range(10):
                reward = level - 0.7 * (own and beta < 0.02) + random.normal(0, 0.002)
                failed = own and beta > 2
                figures = (np.nan, np.nan) if failed else (reward, kl + random.normal(0, 0.001))
                rows.append((loss, beta, *figures, seed))
    return pd.DataFrame(rows, columns=["loss", "beta", "reward", "kl_divergence", "seed"])


@pytest.fixture
def judged(tmp_path: Path) -> Callable[[Table], dict[str, PublishedRow]]:
    def judge(frame: Table) -> dict[str, PublishedRow]:
        file = tmp_path / "imdb_results_2.csv"
        frame.to_csv(file)
        outcome = ENTRY.run(data=tmp_path)
        return {row.series[6:]: row for row in outcome.rows if row.series.startswith("CLAIM")}

    return judge


def test_what_is_so_by_far_holds_and_its_opposite_fails(
    judged: Callable[[Table], dict[str, PublishedRow]],
) -> None:
    found = judged(table())
    words = {claim: row.note for claim, row in found.items()}
    assert words == {
        "LRML earns more reward than DPO at beta .025, .05, .1": "holds",
        "LRML stays nearer to the reference than DPO at beta .025, .05, .1": "holds",
        "LRML's frontier lies above DPO's: more reward at equal KL": "holds",
        "at beta .5 and 1 the rewards of both fall": "holds",
        "at beta .5 and 1 the KL of both rises": "fails",
        "LRML keeps a higher reward than DPO at beta .5 and 1": "holds",
        "LRML earns slightly more than DPO, SLiC, AQFL and PADLL at beta .05 and .1": "holds",
        "LRML does not converge at beta .01 and from 2.5 on": "holds",
    }
    for row in found.values():
        assert str(row.x).startswith("the authors")
        assert (row.published, row.ok) == (1.0, None)
    worse = judged(table(gain=-0.02))
    assert worse["LRML earns more reward than DPO at beta .025, .05, .1"].note == "fails"
    assert worse["LRML's frontier lies above DPO's: more reward at equal KL"].note == "fails"


def test_what_its_own_spread_cannot_tell_is_a_tie(
    judged: Callable[[Table], dict[str, PublishedRow]],
) -> None:
    frame = table(gain=0.0)
    frame.loc[frame["loss"] == "lrml", "reward"] += 0.0005
    found = judged(frame)
    assert found["LRML's frontier lies above DPO's: more reward at equal KL"].note == "tie"


def test_a_second_series_is_a_policy_of_its_own(tmp_path: Path) -> None:
    frame = table()
    frame["kl_divergence"] += np.where(np.arange(len(frame)) >= len(frame) - 90, 0.3, 0.0)
    file = tmp_path / "runs.csv"
    frame.to_csv(file, index=False)
    rows = ENTRY.run(data=file).rows
    moved = [row for row in rows if row.series == "KL per token, AQFL, second series minus AQFL"]
    assert len(moved) == 7
    assert [row.reproduced for row in moved] == pytest.approx([0.3] * 7, abs=0.002)
    assert any(row.series == "reward, LRML minus AQFL, second series" for row in rows)
    once = Sweep.read(_written(tmp_path / "once.csv", table(again=False)))
    assert not once.has("aqfl, second series", 0.05)


def _written(file: Path, frame: Table) -> Path:
    frame.to_csv(file, index=False)
    return file


def test_failed_runs_are_counted_and_not_imputed(tmp_path: Path) -> None:
    file = _written(tmp_path / "runs.csv", table())
    sweep = Sweep.read(file)
    assert len(sweep.failed) == 20
    assert len(sweep.runs) == len(table()) - 20
    rows = [row for row in ENTRY.run(data=file).rows if "without a figure" in row.series]
    assert [(row.x, row.reproduced) for row in rows] == [("beta 2.5", 10), ("beta 5", 10)]


def test_the_text_says_what_the_seeds_and_the_kl_are(tmp_path: Path) -> None:
    text = " ".join(ENTRY.run(data=_written(tmp_path / "runs.csv", table())).text.split())
    for words in ("ten generation seeds of each trained checkpoint", "*these policies*",
                  "**mean per token over prompt and response**"):  # fmt: skip
        assert words in text


@pytest.mark.parametrize("place", ["scripts/plotting/imdb_results_2.csv", "imdb_results.csv"])
def test_a_checkout_or_a_folder_will_do(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    _written(tmp_path / place, table())
    assert len(Sweep.read(tmp_path).runs) == len(table()) - 20


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table().drop(columns="reward"), "lacks the columns reward"),
        (table().assign(beta="many"), "cannot be read"),
        (table()[table()["loss"] != "dpo"], "0 runs of dpo"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, frame: Table, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ENTRY.run(data=_written(tmp_path / "runs.csv", frame))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds none of"):
        ENTRY.run(data=tmp_path / "empty")


def test_the_interval_is_welchs() -> None:
    """By hand: variances 1 and 4, 4 and 5 values, Welch-Satterthwaite's degrees of freedom."""
    first = pd.Series([1.0, 2.0, 3.0, 2.0])
    second = pd.Series([0.0, 1.0, 5.0, 2.0, 2.0])
    spread = first.var() / 4, second.var() / 5
    freedom = sum(spread) ** 2 / (spread[0] ** 2 / 3 + spread[1] ** 2 / 4)
    from scipy.special import stdtrit

    half = stdtrit(freedom, 0.975) * sum(spread) ** 0.5
    found = welch(first, second)
    assert (found.value, found.low, found.high) == pytest.approx((0.0, -half, half))


def test_one_part_in_the_wrong_direction_fails_a_claim_and_an_open_one_ties_it() -> None:
    sure = Part("", "", welch(pd.Series([2.0, 2.1]), pd.Series([1.0, 1.1])), above=True)
    unsure = Part("", "", welch(pd.Series([2.0, 1.1]), pd.Series([1.0, 1.9])), above=False)
    wrong = Part("", "", sure.found, above=False, below=True)
    assert Claim("", (sure, sure)).word == "holds"
    assert Claim("", (sure, unsure)).word == "tie"
    assert Claim("", (sure, unsure, wrong)).word == "fails"
