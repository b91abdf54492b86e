"""How long a trial may take, against sums worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from dpo_bench.experiment import Experiment
from dpo_bench.sweep.estimate import Size, estimate, evaluations, in_words, matrix_speed

SIZE = Size(parameters=1_000_000, prompt=10, response=20, pairs=100, prompts=8)
SPEED = 1e9


def experiment(training: dict[str, Any], **evaluation: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "e",
            "policy": "p",
            "preferences": "d",
            "losses": ["dpo"],
            "training": {"pairs_per_step": 4, **training},
            "evaluation": {
                "samples_per_prompt": 2,
                "rows_per_batch": 5,
                "max_new_tokens": 3,
                **evaluation,
            },
        }
    )


@pytest.mark.parametrize(
    ("every", "times"),
    [(0, 1), (40, 3), (50, 3), (60, 2), (119, 2), (120, 1), (500, 1), (1, 120)],
)
def test_a_trial_is_evaluated_at_its_end_and_every_so_many_steps_before(
    every: int, times: int
) -> None:
    assert evaluations(experiment({"steps": 120}, every=every), None) == times


def test_evaluations_of_epochs_depend_on_the_pairs() -> None:
    epochs = experiment({"epochs": 2}, every=10)
    assert evaluations(epochs, None) is None
    assert evaluations(epochs, 100) == 5  # 50 steps: at 10, 20, 30, 40 and the end
    assert evaluations(experiment({"epochs": 2}), None) == 1


# A token costs 2 operations per parameter at half the speed: 2e6 / 0.5e9 = 4 ms. A pair has
# 2 x (10 + 20) = 60 tokens; a step of 4 pairs, 240: forward and backward 3 x 4 ms x 240 = 2.88 s,
# and 4 passes of at least 4 ms.
STEP = 2.88 + 0.016
# 8 prompts x 2 responses of 30 tokens: 16 x 30 x 4 ms = 1.92 s to sample them, and 4 batches of 3
# passes; twice that to score them under policy and reference; 8 held-out pairs: 8 x 60 x 4 ms.
EVALUATION = (1.92 + 4 * 3 * 0.004) + 2 * 1.92 + 1.92


def test_time_is_that_of_training_sampling_scoring_and_held_out_pairs() -> None:
    found = estimate(experiment({"steps": 5}), SIZE, SPEED)
    assert found == pytest.approx(5 * STEP + EVALUATION)


def test_evaluations_along_training_take_their_time_each() -> None:
    found = estimate(experiment({"steps": 5}, every=2), SIZE, SPEED)
    assert found == pytest.approx(5 * STEP + 3 * EVALUATION)


def test_an_adapter_saves_part_of_the_backward_pass() -> None:
    found = estimate(experiment({"steps": 5, "lora": {"rank": 2}}), SIZE, SPEED)
    assert found == pytest.approx(5 * (2.88 * 2.6 / 3 + 0.016) + EVALUATION)


def test_a_machine_of_twice_the_speed_halves_what_depends_on_it() -> None:
    fixed = 5 * 0.016 + 4 * 3 * 0.004
    slow, fast = (estimate(experiment({"steps": 5}), SIZE, speed) for speed in (SPEED, 2 * SPEED))
    assert fast - fixed == pytest.approx((slow - fixed) / 2)


def test_speed_is_that_of_a_machine_of_this_world() -> None:
    assert 1e8 < matrix_speed() < 1e13


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (36000, "10.0 h"),
    ],
)
def test_durations_are_said_in_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
