"""Evaluations along training survive interruptions bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.opponents import read_opponents
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.experiment import plan_trials
from dpo_bench.progress import Control
from dpo_bench.storage import published_folder, read_parquet, write_parquet
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.results import write_results
from dpo_bench.sweep.round_robin import write_opponents
from dpo_bench.sweep.store import Store, link_files
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.trials import run_trial
from dpo_bench.training.trainer import StoppedError
from tests.sweep.small_context import small_context


@pytest.fixture(scope="module")
def context(llama_folder: Path, pairs_file: Path) -> WorkerContext:
    return small_context(
        llama_folder, pairs_file, steps=6, evaluation={"reward": "vader", "every": 2}
    )


def run(
    context: WorkerContext, out: Path, control: Control | None = None
) -> dict[str, pd.DataFrame]:
    (trial,) = plan_trials(context.experiment)
    ended = run_trial(context, out, Task(trial, "trial"), control or Control())
    assert ended == ("done", "")
    folder = Store(out).trial_folder("trial")
    return {file.stem: read_parquet(file) for file in folder.glob("*.parquet")}


def assert_same(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> None:
    assert left.keys() == right.keys() >= {"checkpoints", "checkpoint_prompts", "samples"}
    for name, table in left.items():
        one, other = (
            each.drop(columns="seconds", errors="ignore") for each in (table, right[name])
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)


class Cut:
    """Says stop, or dies, when training tells of a step for the n-th time."""

    def __init__(self, step: int, times: int, error: type[BaseException] | None) -> None:
        self.step, self.times, self.error = step, times, error
        self.over = False

    def progress(self, phase: str, done: int, _total: int) -> None:
        if phase == "training" and done == self.step:
            self.times -= 1
            if self.times == 0:
                self.over = True
                if self.error:
                    raise self.error


@pytest.mark.parametrize(
    ("step", "times", "error"),
    [
        (3, 1, None),  # between two evaluations
        (4, 1, None),  # asked to stop when an evaluation is due: it is made first
        (4, 3, SystemExit),  # killed in the middle of an evaluation
        (5, 1, SystemExit),  # killed after one
    ],
)
def test_an_interrupted_run_has_the_same_checkpoints(
    context: WorkerContext, tmp_path: Path, step: int, times: int, error: type[BaseException] | None
) -> None:
    whole = run(context, tmp_path / "whole")
    assert whole["checkpoints"]["step"].tolist() == [2, 4]
    cut = Cut(step, times, error)
    out = tmp_path / "cut"
    with pytest.raises(error or StoppedError):
        run(context, out, Control(cut.progress, lambda: cut.over))
    assert cut.over
    kept = Store(out).evaluations("trial")
    expected = {3: ["00000002"], 4: ["00000002"] if error else ["00000002", "00000004"]}
    names = sorted(path.name for path in kept.glob("[0-9]*"))
    assert names == expected.get(step, ["00000002", "00000004"])
    assert_same(run(context, out), whole)
    assert not kept.exists()


def test_they_are_points_of_the_results_and_change_nothing_else(
    context: WorkerContext, tmp_path: Path
) -> None:
    evaluation = context.experiment.evaluation.model_copy(update={"every": 0})
    without = context.experiment.model_copy(update={"evaluation": evaluation})
    plain = run(WorkerContext(without, context.sources), tmp_path / "plain")
    along = run(context, tmp_path / "along")
    assert along.keys() - plain.keys() == {"checkpoints", "checkpoint_prompts"}
    for name, table in plain.items():
        pd.testing.assert_frame_equal(table, along[name], check_exact=True)
    points = along["checkpoints"]
    assert (points["kl"].diff().dropna() != 0).all()
    means = along["checkpoint_prompts"].groupby("step")
    names = ["kl", "reward", "win_rate", "response_tokens"]
    np.testing.assert_allclose(
        means[["kl", "reward", "win_reference", "tokens"]].mean(), points[names]
    )
    store = Store(tmp_path / "along")
    row = write_results(store, ["trial"]).iloc[0]
    assert row["checkpoints"] == 2
    assert row["checkpoint_seconds"] == pytest.approx(points["seconds"].sum())
    manifest = store.manifest("trial")
    assert manifest is not None
    assert {"checkpoints.parquet", "checkpoint_prompts.parquet"} <= set(manifest.artefacts)


def test_the_round_robin_of_rewards_agrees_with_the_win_rates(
    context: WorkerContext, tmp_path: Path
) -> None:
    run(context, tmp_path)
    store = Store(tmp_path)
    assert write_opponents(store, ["trial"]) is None  # there is no reference yet
    with published_folder(store.reference_folder) as new:
        link_files(context.reference_folder, new)
    file = write_opponents(store, ["trial", "not done"])
    assert file is not None
    players, wins = read_opponents(file)
    assert players == ["trial", "reference", "chosen"]
    row = write_results(store, ["trial"]).iloc[0]
    assert wins[0, 1].mean() == pytest.approx(row["win_rate"])
    assert wins[0, 2].mean() == pytest.approx(row["win_rate_chosen"])
    np.testing.assert_allclose(wins + wins.swapaxes(0, 1), 1)
    assert (row["control_self"], row["control_order"]) == (0.5, 1.0)
    assert pd.notna(row["control_null"])
    assert pd.isna(row["control_injection"])
    table = read_parquet(file).iloc[1:]
    with store.ledger.writing([file.name]):
        write_parquet(file, table)
    with pytest.raises(EnvironmentProblem, match="lacks some pairs"):
        read_opponents(file)


def test_their_time_is_no_training_time(context: WorkerContext, tmp_path: Path) -> None:
    run(context, tmp_path)
    seconds = json.loads((tmp_path / "trials/trial/manifest.json").read_text())["seconds"]
    table = read_parquet(tmp_path / "trials/trial/checkpoints.parquet")
    assert seconds["checkpoints"] == pytest.approx(table["seconds"].sum())
    assert np.all(table["seconds"] > 0)
