"""Calling a loss, and its hyperparameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_bench import PairLogps, get_loss
from dpo_bench.contract import Range
from dpo_bench.contract.loss import read_hyperparameters
from dpo_bench.errors import ConfigurationError
from dpo_bench.testing.example_pairs import ordinary_pairs


def test_loss_without_hyperparameters_takes_its_defaults() -> None:
    loss, pairs = get_loss("cdpo"), ordinary_pairs()
    assert torch.equal(loss(pairs), loss(pairs, **loss.hyperparameters))


def test_given_values_stand_over_defaults() -> None:
    resolved = get_loss("cdpo").resolve({"label_smoothing": 0})
    assert resolved == {"beta": 0.1, "label_smoothing": 0.0}
    assert list(resolved) == ["beta", "label_smoothing"]
    assert all(isinstance(value, float) for value in resolved.values())


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        (
            {"bata": 1},
            r"dpo has no hyperparameter 'bata' \(did you mean 'beta'\?\)\. It has: beta\.",
        ),
        ({"beta": 0}, r"dpo: beta = 0 is outside \(0, inf\)"),
        ({"beta": -0.1}, r"beta = -0\.1 is outside"),
        ({"beta": math.nan}, "beta = nan is outside"),
        ({"beta": math.inf}, "beta = inf is outside"),
        ({"beta": True}, "beta = True is not a number"),
        ({"beta": "0.1"}, r"beta = '0\.1' is not a number"),
        ({"beta": None}, "beta = None is not a number"),
        ({"beta": [0.1]}, r"beta = \[0\.1\] is not a number"),
    ],
)
def test_wrong_hyperparameter_is_refused(given_values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        get_loss("dpo")(ordinary_pairs(), **given_values)


@pytest.mark.parametrize("value", [0.5, -0.01, 1])
def test_range_of_an_annotation_is_kept(value: float) -> None:
    with pytest.raises(ConfigurationError, match=r"label_smoothing = .* is outside \[0, 0\.5\)"):
        get_loss("cdpo").resolve({"label_smoothing": value})


def test_card_of_a_loss() -> None:
    loss = get_loss("cdpo")
    assert loss.strength == "beta"
    assert loss.summary.startswith("DPO with smoothed labels")
    assert loss.source_file.name == "cdpo.py"
    file, line = loss.location.rsplit(":", 1)
    assert "@register(" in Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1]


def test_loss_is_frozen() -> None:
    loss = get_loss("dpo")
    with pytest.raises(AttributeError):
        loss.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        loss.hyperparameters["beta"] = 2.0  # type: ignore[index]


def test_hyperparameters_without_a_range_take_any_finite_number() -> None:
    def function(
        logps: PairLogps, beta: float = 1, lam: float = -2, cap: Annotated[float, 5] = 3
    ) -> None:
        """Nothing."""

    defaults, ranges = read_hyperparameters(function)  # type: ignore[arg-type]
    assert defaults == {"beta": 1.0, "lam": -2.0, "cap": 3.0}
    assert {name: str(limits) for name, limits in ranges.items()} == {
        "beta": "(0, inf)",
        "lam": "(-inf, inf)",
        "cap": "(-inf, inf)",
    }


@given(
    value=st.floats(),
    ends=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
    closed=st.tuples(st.booleans(), st.booleans()),
)
def test_range_agrees_with_its_spelling(
    value: float, ends: tuple[int, int], closed: tuple[bool, bool]
) -> None:
    limits = Range(float(ends[0]), float(ends[1]), *closed)
    left, right = "(["[closed[0]], ")]"[closed[1]]
    assert str(limits) == f"{left}{ends[0]}, {ends[1]}{right}"
    inside = (ends[0] < value or (closed[0] and ends[0] == value)) and (
        value < ends[1] or (closed[1] and ends[1] == value)
    )
    assert (value in limits) == inside


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_range_holds_what_is_not_finite(value: float) -> None:
    assert value not in Range()
    assert str(Range()) == "(-inf, inf)"
