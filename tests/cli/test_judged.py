"""Sweeps that a judge decides, and such as are evaluated along the way, as they are typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpo_bench.sweep.opponents import read_opponents
from dpo_bench.tables import read_parquet
from tests.cli.command import QUICK, dpo_bench, results
from tests.evaluation.judge_server import asked, running

TIMES = ["train_seconds", "evaluation_seconds", "checkpoint_seconds"]


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
    before = sum(asked(url))
    assert max(asked(url)) == 1
    (out / "opponents.parquet").unlink()
    dpo_bench(*arguments)  # everything is known: nothing is asked
    assert sum(asked(url)) == before
    assert (out / "opponents.parquet").exists()


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


def test_evaluations_along_training_are_points_and_change_nothing_else(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    outs = []
    for name, more in {
        "plain": [],
        "along": ["--set=evaluation.every=1", "--set=evaluation.kl_reverse=true"],
    }.items():
        outs.append(tmp_path / name / "out")
        dpo_bench(*base(llama_folder, pairs_file), "--reward", "vader", "--out", outs[-1], *more)
    plain, along = map(results, outs)
    shared = plain.columns.difference(
        ["trial", *TIMES, "checkpoints", *(f"kl_reverse{end}" for end in ("", "_low", "_high"))]
    )
    pd.testing.assert_frame_equal(plain[shared], along[shared], check_exact=True)
    assert plain["checkpoints"].isna().all()
    assert along["checkpoints"].tolist() == [3, 3]  # the fourth step is the trial itself
    assert (along["checkpoint_seconds"] > 0).all()
    assert (along["kl_reverse"] > 0).all()
    folder = outs[1] / "trials" / along["trial"][0]
    points = read_parquet(folder / "checkpoints.parquet")
    prompts = read_parquet(folder / "checkpoint_prompts.parquet")
    assert points["step"].tolist() == [1, 2, 3]
    assert (points["kl"].diff().dropna() != 0).all()
    means = prompts.groupby("step")[["kl", "reward", "win_reference", "tokens"]].mean()
    names = ["kl", "reward", "win_rate", "response_tokens"]
    np.testing.assert_allclose(means, points[names])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"checkpoints.parquet", "checkpoint_prompts.parquet"} <= set(manifest["artefacts"])
    assert list((outs[1] / "checkpoints").iterdir()) == []
    # Everyone against everyone, from the stored rewards.
    players, wins = read_opponents(outs[0] / "opponents.parquet")
    assert players == [*plain["trial"], "reference", "chosen"]
    np.testing.assert_allclose(wins[:2, 2].mean(axis=1), plain["win_rate"])
    np.testing.assert_allclose(wins[:2, 3].mean(axis=1), plain["win_rate_chosen"])
