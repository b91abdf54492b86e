"""One trial from its initial weights to its finished folder, also where it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dpo_bench.errors import DataError, DivergedError
from dpo_bench.experiment import Experiment, plan_trials
from dpo_bench.progress import Control
from dpo_bench.storage import read_parquet
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.results import write_results
from dpo_bench.sweep.sources import find_sources
from dpo_bench.sweep.store import Manifest, Store
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.trials import describe, manifest_of, run_trial
from dpo_bench.training.trainer import StoppedError


@pytest.fixture(scope="module")
def settings(llama_folder: Path, pairs_file: Path) -> dict[str, Any]:
    return {
        "name": "trials",
        "policy": str(llama_folder),
        "preferences": str(pairs_file),
        "keep_policies": True,
        "training": {
            "steps": 4,
            "pairs_per_step": 8,
            "learning_rate": 1e-2,
            "checkpoint_seconds": 0,
        },
        "evaluation": {
            "prompts": 3,
            "max_new_tokens": 4,
            "reference_samples": 4,
            "resamples": 100,
        },
        "losses": [{"name": "ipo", "beta": 0.1}],
    }


@pytest.fixture(scope="module")
def context(settings: dict[str, Any]) -> WorkerContext:
    experiment = Experiment.model_validate(settings)
    return WorkerContext(experiment, find_sources(experiment))


class At:
    """Raises at a phase, or asks for a stop."""

    def __init__(self, phase: str, done: int, error: BaseException | None = None) -> None:
        self.phase, self.done, self.error = phase, done, error
        self.is_over = False

    def progress(self, phase: str, done: int, _total: int) -> None:
        if phase == self.phase and done == self.done:
            self.is_over = True
            if self.error:
                raise self.error

    @property
    def control(self) -> Control:
        return Control(self.progress, lambda: self.is_over and not self.error)


def run(
    context: WorkerContext,
    folder: Path,
    control: Control | None = None,
    kl_limit: float | None = None,
) -> tuple[Store, str | None]:
    """The folder, and why the trial failed or was stopped."""
    (trial,) = plan_trials(context.experiment)
    ended = run_trial(context, folder, Task(trial, "t", kl_limit), control or Control())
    assert (ended.status == "done") == (not ended.reason)
    return Store(folder), ended.reason or None


def manifest(store: Store) -> Manifest:
    found = store.manifest("t")
    assert found is not None
    return found


def test_a_finished_trial_has_all_its_files_and_nothing_is_left_under_way(
    context: WorkerContext, tmp_path: Path
) -> None:
    store, error = run(context, tmp_path)
    assert error is None
    found = manifest(store)
    assert (found.status, found.loss, found.strength, found.beta) == ("done", "ipo", "beta", 0.1)
    assert found.hyperparameters == {"beta": 0.1}
    assert found.error is found.cause is found.traceback is None
    assert set(found.seconds) == {"training", "evaluation", "checkpoints"}
    assert found.seconds["training"] > 0
    assert 0 < found.seconds["evaluation"] < 600
    assert found.seconds["checkpoints"] == 0
    files = {"training.parquet", "samples.parquet", "heldout.parquet", "evaluation.json"}
    assert files <= set(found.artefacts)
    assert any(name.startswith("policy/") for name in found.artefacts)
    assert store.damage("t") == []
    assert len(read_parquet(store.trial_folder("t") / "training.parquet")) == 4
    assert not store.checkpoint("t").exists()
    assert not store.evaluations("t").exists()
    (row,) = write_results(store, ["t"]).to_dict("records")
    assert (row["steps"], row["prompts"], row["beta"]) == (4, 3, 0.1)
    assert row["initial_loss"] == pytest.approx(25.0, rel=1e-3)  # (0 - 1 / (2 x 0.1))^2
    assert row["initial_loss_expected"] == pytest.approx(25.0, rel=1e-3)


def test_a_trial_that_was_never_saved_on_its_way_finishes_as_well(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    training = {**settings["training"], "checkpoint_seconds": 1e9}
    experiment = Experiment.model_validate({**settings, "training": training})
    store, error = run(WorkerContext(experiment, find_sources(experiment)), tmp_path)
    assert error is None
    assert manifest(store).status == "done"


def test_a_trial_repeats_bit_by_bit(context: WorkerContext, tmp_path: Path) -> None:
    tables = []
    for name in ("first", "second"):
        torch.manual_seed(len(name))  # what was drawn before does not matter
        store, _ = run(context, tmp_path / name)
        tables.append(read_parquet(store.trial_folder("t") / "samples.parquet"))
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)


def test_a_crash_is_a_failed_trial_with_its_trace_and_the_steps_before(
    context: WorkerContext, tmp_path: Path
) -> None:
    crash = At("training", 3, RuntimeError("a shape\n  is wrong"))
    store, error = run(context, tmp_path, crash.control)
    found = manifest(store)
    assert error == found.error == "RuntimeError: a shape is wrong"
    assert (found.status, found.cause, found.is_final) == ("failed", "RuntimeError", False)
    assert found.traceback is not None
    assert "in progress" in found.traceback
    assert list(found.artefacts) == ["training.parquet"]
    assert len(read_parquet(store.trial_folder("t") / "training.parquet")) == 3
    assert run(context, tmp_path)[1] is None, "it is tried again"
    assert manifest(store).status == "done"


def test_a_divergence_is_a_result_without_a_trace(context: WorkerContext, tmp_path: Path) -> None:
    store, error = run(context, tmp_path, At("training", 2, DivergedError("no end")).control)
    found = manifest(store)
    assert error == found.error == "no end"
    assert found.is_final
    assert found.traceback is None


def test_a_divergence_is_named_whatever_stumbles_over_it_first(
    context: WorkerContext, tmp_path: Path
) -> None:
    """An evaluation along the way comes before the trainer looks at its log."""

    def break_it(phase: str, done: int, _total: int) -> None:
        if phase == "training" and done == 2:
            for weight in context.policy.model.parameters():
                weight.data.fill_(float("nan"))
        if phase == "training" and done == 3:
            raise ValueError("a reward is missing")

    store, error = run(context, tmp_path, Control(break_it))
    found = manifest(store)
    assert error == found.error
    assert "stopped being finite at step 2" in str(error)
    assert (found.cause, found.is_final) == ("DivergedError", True)


def test_a_trial_that_is_stopped_is_not_there_and_goes_on_later(
    context: WorkerContext, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(context, tmp_path / "parts", At("training", 2).control)
    store = Store(tmp_path / "parts")
    assert store.manifest("t") is None
    assert store.checkpoint("t").is_dir()
    told: list[int] = []
    run(
        context,
        tmp_path / "parts",
        Control(lambda phase, done, _: told.append(done) if phase == "training" else None),
    )
    assert told == [3, 4]
    whole, _ = run(context, tmp_path / "whole")
    for name in ("samples", "heldout", "training"):
        one, other = (
            read_parquet(each.trial_folder("t") / f"{name}.parquet") for each in (store, whole)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_errors_of_our_own_need_no_class() -> None:
    assert describe(DataError("no\n pairs")) == "no pairs"
    assert describe(KeyError("x")) == "KeyError: 'x'"


def test_manifest_has_the_trials_own_fields(settings: dict[str, Any]) -> None:
    losses = [{"name": "sft", "learning_rate": 0.02}, {"name": "dpo", "beta": 0.3}]
    training = {**settings["training"], "seeds": [4]}
    experiment = Experiment.model_validate({**settings, "losses": losses, "training": training})
    sft, dpo = (
        manifest_of(trial, "t", "failed", experiment.training, error="x")
        for trial in plan_trials(experiment)
    )
    assert (sft.strength, sft.beta, dict(sft.hyperparameters)) == (None, None, {})
    assert (dpo.strength, dpo.beta, dpo.seed, dpo.error) == ("beta", 0.3, 4, "x")
    assert sft.training is not None
    assert dpo.training is not None
    assert (sft.training["learning_rate"], dpo.training["learning_rate"]) == (0.02, 0.01)
    assert (sft.training["steps"], sft.training["optimizer"]) == (4, "adamw")
    assert "seeds" not in sft.training


def test_a_resampled_trial_resumes_on_the_pairs_that_it_drew(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    training = {**settings["training"], "resample": "bootstrap", "seeds": [4]}
    experiment = Experiment.model_validate({**settings, "training": training})
    context = WorkerContext(experiment, find_sources(experiment))
    _, error = run(context, tmp_path / "whole")
    assert error is None
    with pytest.raises(StoppedError):
        run(context, tmp_path / "parts", At("training", 2).control)
    later = WorkerContext(experiment, find_sources(experiment))
    run(later, tmp_path / "parts")
    whole, parts = (
        read_parquet(tmp_path / name / "trials" / "t" / "training.parquet")
        for name in ("whole", "parts")
    )
    pd.testing.assert_frame_equal(whole, parts)
    plain = WorkerContext(
        Experiment.model_validate({**settings, "training": {**training, "resample": "none"}}),
        find_sources(experiment),
    )
    run(plain, tmp_path / "plain")
    other = read_parquet(tmp_path / "plain" / "trials" / "t" / "training.parquet")
    assert not whole["loss"].equals(other["loss"])
