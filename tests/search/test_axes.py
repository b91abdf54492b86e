"""What a search may vary, and where."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_bench.contract import get_loss, list_losses
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import LossGrid, Search, Training
from dpo_bench.search.axes import Axis, axes_of, round_to

TRAINING = Training(learning_rate=1e-3, steps=120, pairs_per_step=16)

SCALES = (
    Axis("beta", 0.1, (0.05, 1.0), 1e-5, 1e3),
    Axis("alpha", 0.5, (0.2, 0.8), 1e-4, 1 - 1e-4, "odds", (0.0, 1.0)),
    Axis("epsilon", 0.1, (0.1,), 5e-5, 0.49995, "odds", (0.0, 0.5)),
    Axis("gamma", 0.5, (0.0, 0.5), -5e3, 5e3, "asinh", unit=0.5),
    Axis("steps", 120, (120, 360), 15, 960, whole=True, of_training=True),
)


def _table(name: str) -> LossGrid:
    return LossGrid.model_validate({"name": name})


def names(search: dict[str, Any], loss: str, **values: Any) -> list[str]:
    grid = LossGrid.model_validate({"name": loss} | {k: (v,) for k, v in values.items()})
    return [one.name for one in axes_of(grid, Search.model_validate(search), TRAINING)]


@pytest.mark.parametrize("axis", SCALES, ids=lambda axis: axis.scale + axis.name)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(place=st.floats(-40, 40))
def test_values_stay_inside_the_limits_and_go_back_to_their_place(axis: Axis, place: float) -> None:
    value = axis.value(place)
    assert axis.low * (1 - 1e-9) <= value <= axis.high * (1 + 1e-9) or axis.low < 0
    assert axis.low <= value <= axis.high or math.isclose(value, axis.low, rel_tol=5e-3)
    inside = min(max(place, axis.place(axis.low)), axis.place(axis.high))
    # three digits are kept, of a whole number the nearest
    assert axis.place(value) == pytest.approx(inside, abs=0.04 if axis.whole else 0.006)


@pytest.mark.parametrize("axis", SCALES, ids=lambda axis: axis.scale + axis.name)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(first=st.floats(-10, 10), second=st.floats(-10, 10))
def test_a_place_further_up_never_has_a_smaller_value(
    axis: Axis, first: float, second: float
) -> None:
    low, high = sorted((first, second))
    assert axis.value(low) <= axis.value(high)


@given(value=st.floats(1e-9, 1e9))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_number_is_rounded_to_three_digits(value: float) -> None:
    found = round_to(value)
    assert abs(found - value) <= 0.5e-2 * value
    digits = f"{found:.12e}".partition("e")[0]
    assert float(digits) == pytest.approx(round(float(digits), 2), abs=1e-9)


@pytest.mark.parametrize("name", list_losses())
def test_every_loss_has_axes_whose_values_it_takes(name: str) -> None:
    loss = get_loss(name)
    found = axes_of(_table(name), Search(), TRAINING)
    assert found[-1].name == "learning_rate"
    for axis in found[:-1]:
        allowed = loss.ranges[axis.name]
        places = [axis.place(axis.low), axis.place(axis.high), -50.0, 0.0, 50.0]
        values = [axis.value(place) for place in places]
        values += [axis.start, *axis.first, axis.low, axis.high]
        assert all(value in allowed for value in values), (axis, values)
        assert axis.low <= min(axis.first) <= max(axis.first) <= axis.high


def test_hyperparameters_come_first_in_the_order_of_the_loss_then_keys_of_training() -> None:
    assert names({}, "dpo") == ["beta", "learning_rate"]
    assert names({}, "simpo") == ["beta", "gamma_beta_ratio", "learning_rate"]
    assert names({"extend": ["learning_rate", "steps"]}, "slic") == [
        "delta",
        "lam",
        "learning_rate",
        "steps",
    ]
    assert names({"extend": []}, "dpo") == ["beta"]


def test_what_a_table_gives_is_not_searched_for() -> None:
    assert names({}, "simpo", beta=2.0) == ["gamma_beta_ratio", "learning_rate"]
    assert names({}, "dpo", learning_rate=1e-4) == ["beta"]
    assert names({"extend": []}, "dpo", beta=0.1) == []


def test_a_loss_with_nothing_of_its_own_is_searched_by_its_learning_rate() -> None:
    assert names({}, "sft") == ["learning_rate"]
    assert names({"learning_rates": [1e-4, 1e-3]}, "sft") == ["learning_rate"]
    assert names({"learning_rates": [1e-4, 1e-3]}, "dpo") == ["beta"]


def test_several_values_of_a_hyperparameter_are_no_search() -> None:
    grid = LossGrid.model_validate({"name": "dpo", "beta": (0.1, 0.5)})
    with pytest.raises(ConfigurationError, match="several values"):
        axes_of(grid, Search(), TRAINING)


def test_the_learning_rate_is_taken_around_that_of_the_experiment() -> None:
    (axis,) = axes_of(_table("sft"), Search(), TRAINING)
    assert axis.start == 1e-3
    assert axis.first[0] == 1e-3
    assert axis.low < 1e-5
    assert axis.high > 1e-2
    (steps,) = axes_of(_table("sft"), Search(extend=("steps",)), TRAINING)
    assert steps.whole
    assert steps.start == 120


def test_a_table_may_say_itself_what_moves_its_kl() -> None:
    table = LossGrid.model_validate({"name": "cpo", "kl_by": ["alpha", "steps"]})
    training = Training(learning_rate=1e-3, steps=100)
    found = axes_of(table, Search(), training)
    assert [axis.name for axis in found] == ["alpha", "steps", "learning_rate"]
    assert [axis.of_training for axis in found] == [False, True, True]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"kl_by": ["gamma"]},
            r"cpo: kl_by: gamma cannot be searched; what can is beta, al",
        ),
        ({"kl_by": ["steps"]}, r"cpo: kl_by: steps cannot be searched"),
        ({"kl_by": ["alpha"], "alpha": 0.5}, r"cpo: alpha is in kl_by and has a value"),
    ],
)
def test_what_cannot_be_searched_is_refused(table: dict[str, Any], message: str) -> None:
    grid = LossGrid.model_validate({"name": "cpo", **table})
    with pytest.raises(ConfigurationError, match=message):
        axes_of(grid, Search(), Training(learning_rate=1e-3))
