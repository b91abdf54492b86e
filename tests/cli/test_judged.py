"""A sweep that a judge decides, as it is typed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dpo_bench.sweep.opponents import read_opponents
from dpo_bench.tables import read_parquet
from tests.cli.command import QUICK, dpo_bench, results
from tests.evaluation.judge_server import asked, running


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as address:
        yield address


def base(llama_folder: Path, pairs_file: Path) -> tuple[object, ...]:
    source = ("--policy", llama_folder, "--preferences", pairs_file)
    return ("sweep", *source, "--losses", "dpo", "--beta", "0.1,0.5", *QUICK)


def test_a_judged_sweep_has_win_rates_controls_and_costs_but_no_reward(
    llama_folder: Path, pairs_file: Path, tmp_path: Path, url: str
) -> None:
    out = tmp_path / "out"
    arguments = (
        *base(llama_folder, pairs_file),
        *("--reward", "judge:rule", f"--set=evaluation.judge_base_url={url}"),
        *('--set=evaluation.judge_key_variable=""', "--set=evaluation.judge_round_robin=true"),
        *("--out", out),
    )
    done = dpo_bench(*arguments)
    assert "win rate" in done.stdout
    assert "No reward" not in done.stdout
    table = results(out)
    assert table["status"].tolist() == ["done"] * 2
    assert table[["win_rate", "win_rate_chosen", "judge_consistency"]].notna().all(axis=None)
    assert table[["reward", "reward_low", "frontier_gap"]].isna().all(axis=None)
    assert (table["judge_consistency"] == 1).all()
    assert (table["judge_failures"] == 0).all()
    assert (table["judge_input_tokens"] == 100 * table["judge_requests"]).all()
    assert (table["control_self"] == 0.5).all()
    assert table[["control_null", "control_injection", "control_place"]].notna().all(axis=None)
    assert not (out / "reference" / "frontier.parquet").exists()
    assert (out / "report.html").stat().st_size > 0
    names, wins = read_opponents(out / "opponents.parquet")
    assert names == [*table["trial"], "reference", "chosen"]
    np.testing.assert_allclose(wins + wins.swapaxes(0, 1), 1)
    samples = read_parquet(out / "trials" / names[0] / "samples.parquet")
    first = samples[samples["sample"] == 0]
    np.testing.assert_allclose(wins[0, 3], first["win_chosen"])
    assert max(asked(url)) == 1


def test_a_judge_without_its_key_stops_before_any_training(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    done = dpo_bench(
        *base(llama_folder, pairs_file),
        *("--reward", "judge:any", "--set=evaluation.judge_key_variable=NO_SUCH_KEY"),
        *("--out", tmp_path / "out"),
        code=3,
    )
    assert "NO_SUCH_KEY" in done.stderr
    assert "Traceback" not in done.stderr
