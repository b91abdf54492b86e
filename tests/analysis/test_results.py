"""Folders are read as they are; what is missing or damaged is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dpo_bench.analysis.estimate import Estimate, finite
from dpo_bench.analysis.results import read_sweep
from dpo_bench.errors import ConfigurationError, EnvironmentProblem
from tests.report.conftest import ByName
from tests.sealing import as_written


@pytest.fixture
def copy(folder_of: ByName, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_of("hostile"), tmp_path / "copy"))


def test_trials_carry_the_table_and_their_folders(folder_of: ByName) -> None:
    results = read_sweep(folder_of("clean"))
    table = pd.read_parquet(folder_of("clean") / "results.parquet")
    assert len(results.trials) == len(table) == 20
    for trial, row in zip(results.trials, table.to_dict("records"), strict=True):
        assert (trial.id, trial.loss, trial.strength) == (row["trial"], row["loss"], row["beta"])
        assert trial.done == (row["status"] == "done")
        for name in ("reward", "kl", "win_rate", "margin"):
            found = trial.estimate(name)
            assert found.is_missing == pd.isna(row[name])
            if not found.is_missing:
                assert (found.value, found.low, found.high) == (
                    row[name],
                    row[f"{name}_low"],
                    row[f"{name}_high"],
                )
                assert found.n == 256


def test_a_failed_trial_has_its_cause_and_no_figures(folder_of: ByName) -> None:
    results = read_sweep(folder_of("clean"))
    (failed,) = results.failed
    assert "not finite at step 70" in failed.error
    assert failed.traceback.startswith("Traceback")
    assert failed.samples.empty
    assert len(failed.training_log) == 13
    assert all(failed.estimate(name) == Estimate.missing() for name in ("reward", "kl", "win_rate"))


def test_trials_that_have_not_run_are_counted(folder_of: ByName) -> None:
    assert read_sweep(folder_of("untrained")).pending == 3
    assert read_sweep(folder_of("clean")).pending == 0


def test_a_sweep_without_reward_has_no_frontier(folder_of: ByName) -> None:
    results = read_sweep(folder_of("no_reward"))
    assert not results.has_reward
    assert results.reference.frontier == results.reference.best_of_n == ()
    assert results.reference.reward == Estimate.missing()
    assert results.reference.response_tokens.value == pytest.approx(14.7)


def test_curves_are_ordered_by_kl(folder_of: ByName) -> None:
    reference = read_sweep(folder_of("clean")).reference
    for curve in (reference.frontier, reference.best_of_n):
        assert [point.kl for point in curve] == sorted(point.kl for point in curve)
    assert [point.n for point in reference.best_of_n] == [1, 2, 4, 8, 16, 32, 64]
    assert {point.n for point in reference.frontier} == {0}, "it has no number of samples"


@pytest.mark.parametrize("name", ["results.parquet", "experiment.json"])
def test_a_folder_without_a_sweep_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ConfigurationError, match=name):
        read_sweep(copy)


def test_a_table_of_something_else_is_refused(copy: Path) -> None:
    pd.DataFrame({"loss": ["dpo"]}).to_parquet(copy / "results.parquet")
    as_written(copy)
    with pytest.raises(EnvironmentProblem, match="lacks the columns trial, beta, seed, status, kl"):
        read_sweep(copy)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_damaged_manifest_is_named(copy: Path, content: str) -> None:
    manifest = min(copy.glob("trials/*/manifest.json"))
    manifest.write_bytes(content.encode("latin-1"))
    with pytest.raises(EnvironmentProblem, match=manifest.parent.name):
        read_sweep(copy)


def test_damaged_samples_are_named(copy: Path) -> None:
    trial = read_sweep(copy).done[0]
    samples = copy / "trials" / trial.id / "samples.parquet"
    samples.write_bytes(samples.read_bytes()[: samples.stat().st_size // 2])
    with pytest.raises(EnvironmentProblem, match=r"samples\.parquet"):
        _ = read_sweep(copy).done[0].samples


@pytest.mark.parametrize("name", ["samples", "training"])
def test_a_finished_trial_without_its_tables_is_damaged(copy: Path, name: str) -> None:
    trial = read_sweep(copy).done[0]
    (copy / "trials" / trial.id / f"{name}.parquet").unlink()
    with pytest.raises(EnvironmentProblem, match=rf"{name}\.parquet"):
        getattr(read_sweep(copy).done[0], {"training": "training_log"}.get(name, name))


def test_a_failed_trial_need_not_have_tables(copy: Path) -> None:
    (failed,) = read_sweep(copy).failed
    for file in (copy / "trials" / failed.id).glob("*.parquet"):
        file.unlink()
    as_written(copy)
    (failed,) = read_sweep(copy).failed
    assert failed.samples.empty
    assert failed.training_log.empty


def test_missing_parts_of_the_record_are_empty(copy: Path) -> None:
    record = json.loads((copy / "experiment.json").read_text())
    (copy / "experiment.json").write_text(json.dumps({"experiment": record["experiment"]}))
    results = read_sweep(copy)
    assert (results.command, results.versions, results.counts, results.planned) == ("", {}, {}, ())


@pytest.mark.parametrize("value", [None, float("nan"), float("-inf"), pd.NA, "", "x"])
def test_what_is_no_number_is_none(value: object) -> None:
    assert finite(value) is None


def test_a_metric_without_value_is_nothing() -> None:
    assert Estimate.read({"value": None, "low": 0.0, "high": 1.0, "n": 3}).is_missing
    found = Estimate.read({"value": 1, "low": None, "high": 2.0})
    assert (found.value, found.high, found.n, found.has_interval) == (1.0, 2.0, 0, False)
