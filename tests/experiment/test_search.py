"""The ``[search]`` of an experiment file."""

from __future__ import annotations

from typing import Any

import pytest

from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment import Experiment, validate


def experiment(search: dict[str, Any], **changes: Any) -> Experiment:
    base = {
        "name": "x",
        "policy": "world:reviews",
        "preferences": "world:reviews",
        "losses": ["dpo", "ipo"],
        "search": search,
    }
    return validate({**base, **changes}, "file")


def test_what_is_searched_for_is_what_is_compared() -> None:
    found = experiment({"kl": [1, 2], "baseline": "ipo", "same_within": 0.02})
    assert found.comparison.kl == (1.0, 2.0)
    assert (found.comparison.baseline, found.comparison.same_within) == ("ipo", 0.02)
    assert experiment({}).comparison.kl == experiment({}).search.kl  # type: ignore[union-attr]


def test_it_may_stand_in_either_place_but_not_differ() -> None:
    found = experiment({"kl": [1, 2]}, comparison={"kl": [1, 2], "baseline": "ipo"})
    assert found.search is not None
    assert found.search.baseline == "ipo"
    with pytest.raises(ConfigurationError, match=r"search\.kl and comparison\.kl differ"):
        experiment({"kl": [1, 2]}, comparison={"kl": [1, 3]})


def test_the_record_of_an_experiment_is_read_back_as_it_was() -> None:
    found = experiment({"seeds": [3, 10], "learning_rates": [1e-4, 1e-3], "extend": ["steps"]})
    assert Experiment.model_validate(found.settings()) == found


def test_the_learning_rate_extends_unless_it_is_tuned() -> None:
    def extensions(**search: Any) -> tuple[str, ...]:
        found = experiment(search).search
        assert found is not None
        return found.extensions

    assert extensions() == ("learning_rate",)
    assert extensions(learning_rates=[1e-3]) == ()
    assert extensions(extend=["steps"]) == ("steps",)
    assert extensions(extend=[]) == ()


@pytest.mark.parametrize(
    ("search", "changes", "message"),
    [
        ({"kl": [2, 1]}, {}, r"ascending"),
        ({"kl": [1, 1]}, {}, r"ascending"),
        ({"kl": []}, {}, r"search\.kl"),
        ({"kl": [-1]}, {}, r"search\.kl"),
        ({"kl": [float("nan")]}, {}, r"search\.kl"),
        ({"seeds": [5, 3]}, {}, r"the least number first"),
        ({"seeds": [1, 2, 3]}, {}, r"search\.seeds"),
        ({"learning_rates": [1e-3, 1e-3]}, {}, r"given twice"),
        ({"extend": ["beta"]}, {}, r"search\.extend"),
        ({"kls": [1]}, {}, r"unknown key search\.kls.*kl"),
        ({}, {"training": {"learning_rate": [1, 2]}}, r"learning_rates in \[search\]"),
    ],
)
def test_a_search_that_cannot_be_meant_is_refused(
    search: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        experiment(search, **changes)


def test_one_number_of_seeds_is_least_and_most() -> None:
    found = experiment({"seeds": 3}).search
    assert found is not None
    assert found.seeds == (3,)
