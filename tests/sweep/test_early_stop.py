"""Trials that are ended early, and that looking at their KL changes nothing else."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpo_bench.experiment import plan_trials
from dpo_bench.progress import Control
from dpo_bench.storage import read_parquet
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.early_stop import EarlyStop, StoppedEarlyError, is_beyond
from dpo_bench.sweep.store import Manifest, Store
from dpo_bench.sweep.task import Task
from dpo_bench.sweep.trials import Ended, run_trial
from dpo_bench.training.trainer import StoppedError
from tests.sweep.small_context import small_context

STEPS = 8


@pytest.fixture(scope="module")
def context(llama_folder: Path, pairs_file: Path) -> WorkerContext:
    return small_context(llama_folder, pairs_file, steps=STEPS, evaluation={}, keep_policies=True)


def run(
    context: WorkerContext, out: Path, limit: float | None, control: Control | None = None
) -> Ended:
    (trial,) = plan_trials(context.experiment)
    return run_trial(context, out, Task(trial, "t", limit), control or Control())


def manifest(out: Path) -> Manifest:
    found = Store(out).manifest("t")
    assert found is not None
    return found


class Until:
    """Asks for a stop after a step."""

    def __init__(self, step: int) -> None:
        self.step, self.is_over = step, False

    def progress(self, phase: str, done: int, _total: int) -> None:
        self.is_over |= phase == "training" and done == self.step

    @property
    def control(self) -> Control:
        return Control(self.progress, lambda: self.is_over)


def weights(out: Path) -> bytes:
    return (out / "trials" / "t" / "policy" / "model.safetensors").read_bytes()


def test_a_trial_that_stays_below_its_limit_is_the_same_bit_by_bit(
    context: WorkerContext, tmp_path: Path
) -> None:
    assert run(context, tmp_path / "free", None) == ("done", "")
    assert run(context, tmp_path / "limited", 1e9) == ("done", "")
    # Interrupted between the two looks, which come after 2 and 4 of 8 steps.
    with pytest.raises(StoppedError):
        run(context, tmp_path / "resumed", 1e9, Until(3).control)
    checks = tmp_path / "resumed" / "checkpoints" / "t" / "kl_checks.json"
    assert [check["step"] for check in json.loads(checks.read_text())["checks"]] == [2]
    assert run(context, tmp_path / "resumed", 1e9) == ("done", "")
    assert not checks.exists()
    for name in ("limited", "resumed"):
        assert weights(tmp_path / name) == weights(tmp_path / "free")
        for table in ("training", "samples", "heldout"):
            file = f"trials/t/{table}.parquet"
            one, other = (read_parquet(tmp_path / each / file) for each in ("free", name))
            pd.testing.assert_frame_equal(one, other, check_exact=True)
        found = manifest(tmp_path / name)
        assert found.stopped is None
        assert found.seconds["kl_checks"] > 0
    assert "kl_checks" not in manifest(tmp_path / "free").seconds


def test_a_trial_beyond_its_limit_ends_with_what_it_has(
    context: WorkerContext, tmp_path: Path
) -> None:
    ended = run(context, tmp_path, -1.0)  # every KL is beyond it, if its error is known
    found = manifest(tmp_path)
    assert ended == ("stopped", found.error)
    assert (found.status, found.cause, found.is_final) == ("stopped", None, False)
    assert found.stopped is not None
    stopped = dict(found.stopped)
    assert stopped.keys() == {"step", "kl", "se", "limit", "steps", "seconds"}
    assert (stopped["step"], stopped["steps"], stopped["limit"]) == (2, STEPS, -1.0)
    assert found.error is not None
    assert "after 2 of 8 steps: beyond the limit of -1" in found.error
    assert 0 < found.seconds["training"] == stopped["seconds"]
    folder = Store(tmp_path).trial_folder("t")
    assert list(found.artefacts) == ["training.parquet"]
    assert len(read_parquet(folder / "training.parquet")) == 2
    assert Store(tmp_path).damage("t") == []
    assert not list((tmp_path / "checkpoints").iterdir())

    assert run(context, tmp_path, None) == ("done", ""), "wanted again, without a limit"
    again = manifest(tmp_path)
    assert (again.status, again.stopped, again.error) == ("done", None, None)


def test_a_trial_that_is_resumed_remembers_what_was_seen(
    context: WorkerContext, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(context, tmp_path, 1e9, Until(3).control)
    assert run(context, tmp_path, -1.0).status == "stopped"
    found = manifest(tmp_path)
    assert found.stopped is not None
    assert found.stopped["step"] == 2, "it is stopped by the look that was made before"


def test_the_estimate_is_a_mean_over_prompts_with_its_error(context: WorkerContext) -> None:
    context.reset_policy(0)
    at_reference, error = context.evaluator.estimate_kl(context.policy, 3)
    assert at_reference == pytest.approx(0.0, abs=1e-5)
    assert error == pytest.approx(0.0, abs=1e-5)
    assert math.isnan(context.evaluator.estimate_kl(context.policy, 1)[1])


def test_the_estimate_agrees_with_the_evaluation(context: WorkerContext, tmp_path: Path) -> None:
    run(context, tmp_path, None)
    samples = read_parquet(tmp_path / "trials" / "t" / "samples.parquet")
    assert len(samples.groupby("prompt_id")) == 4
    # The policy is still the trained one; two responses a prompt against one, of the same law.
    kl, se = context.evaluator.estimate_kl(context.policy, 99)
    means = samples.groupby("prompt_id")["kl"].mean()
    spread = float(np.hypot(se, means.std() / 2))
    assert abs(kl - means.mean()) < 4 * spread


class Fake:
    """An evaluator whose KL is given."""

    def __init__(self, *kls: tuple[float, float]) -> None:
        self.kls = list(kls)

    def estimate_kl(self, _policy: Any, _prompts: int, progress: Any) -> tuple[float, float]:
        progress("sampling", 1, 2)
        return self.kls.pop(0)


def looks(folder: Path, limit: float | None, total: int, *kls: tuple[float, float]) -> list[int]:
    """Steps after which it was looked, until the end or the stop."""
    fake: Any = Fake(*kls)
    told: list[tuple[str, int, int]] = []
    early = EarlyStop(
        fake, fake, folder=folder, limit=limit, progress=lambda *what: told.append(what)
    )
    with contextlib.suppress(StoppedEarlyError):
        for done in range(1, total + 1):
            early.after_step(done, total)
    assert all(phase == "training" for phase, _, _ in told)
    return sorted(early.checks)


def test_it_looks_after_a_quarter_and_half_of_the_steps(tmp_path: Path) -> None:
    low = (1.0, 0.1)
    assert looks(tmp_path / "a", 5.0, 120, low, low) == [30, 60]
    assert looks(tmp_path / "b", 5.0, 10, low, low) == [3, 5]
    assert looks(tmp_path / "c", 5.0, 2, low) == [1]
    assert looks(tmp_path / "d", 5.0, 1) == []
    assert looks(tmp_path / "e", None, 120) == []


def test_it_stops_only_what_is_beyond_by_two_standard_errors(tmp_path: Path) -> None:
    assert looks(tmp_path / "a", 5.0, 8, (7.1, 1.0)) == [2]
    assert looks(tmp_path / "b", 5.0, 8, (6.9, 1.0), (7.1, 1.0)) == [2, 4]
    assert looks(tmp_path / "c", 5.0, 8, (math.nan, 1.0), (9.0, math.nan)) == [2, 4]
    assert looks(tmp_path / "c", 5.0, 8) == [2, 4], "both are remembered"


@pytest.mark.parametrize(
    ("kl", "se", "limit", "beyond"),
    [
        (10.0, 1.0, 8.0, False),
        (10.0, 1.0, 7.9, True),
        (None, 1.0, 1.0, False),
        (10.0, None, 1.0, False),
        (10.0, 1.0, None, False),
    ],
)
def test_is_beyond(kl: float | None, se: float | None, limit: float | None, beyond: bool) -> None:
    assert is_beyond(kl, se, limit) is beyond
