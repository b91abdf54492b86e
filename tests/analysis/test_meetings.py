"""Each response meets the responses it was held against, with their own lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.meetings import meetings, shared_difficulty
from dpo_bench.analysis.opponents import CHOSEN, REFERENCE
from dpo_bench.analysis.results import Reference, SweepResults, Trial, read_sweep
from tests.report.conftest import small
from tests.report.sweep_folder import build

PROMPTS = pd.Index(["b", "a"])
SAMPLES = pd.DataFrame(
    {
        "prompt_id": ["a", "a", "b", "b"],
        "sample": [0, 1, 0, 1],
        "response": ["x" * 3, "x" * 5, "x" * 7, "x" * 9],
        "tokens": [3, 5, 7, 9],
        "reward": [1.0, 2.0, 3.0, 4.0],
        "win_reference": [0.25, 0.75, 0.5, 1.0],
        "win_chosen": [0.0, 1.0, 0.5, np.nan],
    }
)
OPPONENTS = pd.DataFrame(
    {
        "prompt_id": ["a", "a", "b", "b"],
        "sample": [0, 1, 0, 1],
        "tokens": [1, 2, 10, 20],
        "reward": [1.0, 3.0, 3.0, 0.0],
    }
)
CHOSEN_TEXTS = pd.DataFrame({"prompt_id": ["a", "b"], "chosen": ["y" * 4, "y" * 8]})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    folder = tmp_path_factory.mktemp("meetings") / "sweep"
    return read_sweep(build(folder, small(losses=("dpo",), failed=(), prompts=8)))


def _made(
    sweep: SweepResults, samples: pd.DataFrame, opponents: pd.DataFrame, **more: Any
) -> tuple[SweepResults, Trial]:
    tables = {"samples": opponents, "prompts": CHOSEN_TEXTS}
    reference = Reference(tables.get, Estimate.missing(), Estimate.missing())
    trial = replace(sweep.done[0], read={"samples": samples}.get)
    return replace(sweep, trials=(trial,), reference=reference, **more), trial


def test_by_reward_everyone_meets_everyone(sweep: SweepResults) -> None:
    found = meetings(*_made(sweep, SAMPLES, OPPONENTS), PROMPTS, REFERENCE)
    assert found is not None
    # prompt b first: 3 and 4 against 3 and 0; then a: 1 and 2 against 1 and 3
    assert found.won.tolist() == [[0.5, 1, 1, 1], [0.5, 0, 1, 0]]
    assert found.longer.tolist() == [[-3, -13, -1, -11], [2, 1, 4, 3]]


def test_the_mean_over_meetings_is_the_share_that_was_measured(sweep: SweepResults) -> None:
    trial = sweep.done[0]
    prompts = pd.Index(sorted(trial.samples["prompt_id"].unique()))
    found = meetings(sweep, trial, prompts, REFERENCE)
    assert found is not None
    shares = trial.samples.groupby("prompt_id")["win_reference"].mean().loc[prompts]
    np.testing.assert_allclose(found.won.mean(axis=1), shares)


def test_the_chosen_response_is_met_once_and_counted_in_characters(sweep: SweepResults) -> None:
    found = meetings(*_made(sweep, SAMPLES, OPPONENTS), PROMPTS, CHOSEN)
    assert found is not None
    np.testing.assert_array_equal(found.won, [[0.5, np.nan], [0, 1]])
    assert found.longer.tolist() == [[-1, 1], [-1, 1]]


@pytest.mark.parametrize(("each", "longer"), [(1, [[-3, -11], [2, 3]]), (2, None)])
def test_a_judge_held_each_response_against_its_own_few(
    sweep: SweepResults, each: int, longer: list[list[float]] | None
) -> None:
    nameless = SAMPLES.assign(reward=np.nan)
    experiment = {**sweep.experiment, "evaluation": {"judge_opponents": each}}
    made = _made(
        sweep, nameless, OPPONENTS.assign(reward=np.nan), scored_by="judge:x",
        experiment=experiment,
    )  # fmt: skip
    found = meetings(*made, PROMPTS, REFERENCE)
    assert found is not None
    if longer is not None:
        assert found.won.tolist() == [[0.5, 1.0], [0.25, 0.75]]
        assert found.longer.tolist() == longer
    else:  # both met both: the share stands for each
        assert found.won.tolist() == [[0.5, 0.5, 1, 1], [0.25, 0.25, 0.75, 0.75]]
        assert found.longer.tolist() == [[-3, -13, -1, -11], [2, 1, 4, 3]]


def test_lengths_that_came_with_the_results_are_used(sweep: SweepResults) -> None:
    given = SAMPLES.assign(extra_length=[1.0, 2.0, 3.0, 4.0])
    found = meetings(*_made(sweep, given, pd.DataFrame()), PROMPTS, REFERENCE)
    assert found is not None
    assert found.longer.tolist() == [[3, 4], [1, 2]]


@pytest.mark.parametrize(
    "samples",
    [
        SAMPLES.drop(columns="win_reference"),
        SAMPLES.drop(columns="tokens"),
        SAMPLES[1:],
        SAMPLES[SAMPLES["prompt_id"] == "a"],
        SAMPLES.assign(win_reference=np.nan),
    ],
)
def test_what_is_not_known_is_not_made_up(sweep: SweepResults, samples: pd.DataFrame) -> None:
    assert meetings(*_made(sweep, samples, OPPONENTS), PROMPTS, REFERENCE) is None


def test_difficulties_are_of_the_prompts_in_their_order(sweep: SweepResults) -> None:
    """The prompts on which every trial wins least are the hardest."""
    prompts = pd.Index(sorted(sweep.done[0].samples["prompt_id"].unique()))
    met = [meetings(sweep, trial, prompts, REFERENCE) for trial in sweep.done]
    known = [one for one in met if one is not None]
    shared = shared_difficulty(known)
    assert shared.players == len(sweep.done) == len(known)
    wins = np.mean([one.won.mean(axis=1) for one in known], axis=0)
    assert np.corrcoef(wins, shared.values)[0, 1] > 0.8
