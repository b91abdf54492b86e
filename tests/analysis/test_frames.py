"""A sweep's tables for pandas are its files', put together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dpo_bench.analysis import frames
from dpo_bench.analysis.external import from_frame
from dpo_bench.analysis.metrics import BY_NAME
from dpo_bench.analysis.results import read_sweep
from tests.report.conftest import ByName
from tests.sealing import as_written


def test_every_trial_is_a_row_with_its_hyperparameters_as_columns(folder_of: ByName) -> None:
    results = read_sweep(folder_of("two_seeds"))
    table = frames.trials(results)
    assert table["trial"].tolist() == [trial.id for trial in results.trials]
    assert set(table["status"]) == {"done", "failed"}
    assert table[table["status"] == "failed"]["error"].str.len().min() > 0
    own = table[table["loss"] == "cdpo"]
    assert set(own["label_smoothing"]) == {0.1, 0.3}
    assert table[table["loss"] == "dpo"]["label_smoothing"].isna().all()


def test_metrics_are_those_of_the_results_table(folder_of: ByName) -> None:
    folder = folder_of("clean")
    results = pd.read_parquet(folder / "results.parquet").set_index("trial")
    table = frames.metrics(read_sweep(folder))
    kl = table[table["metric"] == "kl"].set_index("trial")
    known = results["kl"].dropna()
    assert kl["value"].to_dict() == pytest.approx(known.to_dict())
    assert kl["low"].to_dict() == pytest.approx(results.loc[known.index, "kl_low"].to_dict())
    assert set(kl["unit"]) == {BY_NAME["kl"].unit} == {"nats"}


def test_samples_and_logs_hold_every_row_of_every_trial(folder_of: ByName) -> None:
    folder = folder_of("clean")
    for name, get in (("samples", frames.samples), ("training", frames.training_log)):
        files = sorted(folder.glob(f"trials/*/{name}.parquet"))
        table = get(read_sweep(folder))
        assert len(table) == sum(len(pd.read_parquet(file)) for file in files)
        assert list(table.columns[:4]) == ["trial", "loss", "strength", "seed"]


def test_what_was_not_measured_is_an_empty_table(folder_of: ByName) -> None:
    assert frames.checkpoints(read_sweep(folder_of("clean"))).empty
    assert len(frames.checkpoints(read_sweep(folder_of("along"))))
    assert frames.frontier(read_sweep(folder_of("no_reward"))).empty
    frontier = frames.frontier(read_sweep(folder_of("clean")))
    assert frontier["kl"].is_monotonic_increasing


def test_cut_and_degenerate_trials_are_marked(folder_of: ByName, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(folder_of("clean"), folder)
    results = read_sweep(folder)
    assert frames.trials(results)["cut"].isna().all(), "the fixture does not know"
    marked = results.done[0].id
    file = folder / "trials" / marked / "evaluation.json"
    record = json.loads(file.read_text())
    record["notes"] = {"decay": {"unfinished": 0.35}}
    record["metrics"]["degenerate"] = {"value": 1.0, "low": None, "high": None, "n": 64}
    file.write_text(json.dumps(record))
    as_written(folder)
    table = frames.trials(read_sweep(folder)).set_index("trial")
    assert table.loc[marked, "cut"] == 0.35
    assert table.loc[marked, "degenerate"] == 1
    assert list(table.columns).count("degenerate") == 1
    assert {"cut", "degenerate"} <= set(frames.trials(results).columns)


def test_columns_of_doubt_are_there_where_nothing_is_known() -> None:
    given = pd.DataFrame(
        {"loss": ["a", "a", "b", "b"], "prompt": [0, 1] * 2, "kl": 1.0, "reward": [0.0, 1.0] * 2}
    )
    table = frames.trials(from_frame(given))
    assert table[["cut", "degenerate"]].isna().all(axis=None)
