from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from benchmarks.calibration.enumerable import NormalWorld
from dpo_bench.analysis import frames
from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.analysis.frontier_samples import pooled_frontier
from dpo_bench.analysis.results import SweepResults, read_sweep
from dpo_bench.analysis.tilting import PolicySamples
from tests.report.conftest import ByName

WORLD = NormalWorld(prompts=128)
PROMPTS = pd.Index(range(10, 10 + WORLD.prompts))
KLS = (0.25, 0.5, 1.0, 2.0, 3.0)


def _table(rewards: Array, **columns: Array) -> pd.DataFrame:
    """As a samples.parquet has it, in an order of its own."""
    count = rewards.shape[1]
    table = pd.DataFrame(
        {
            "prompt_id": np.repeat(PROMPTS, count),
            "sample": np.tile(np.arange(count), len(PROMPTS)),
            "reward": rewards.ravel(),
            **{name: values.ravel() for name, values in columns.items()},
        }
    )
    return table.sample(frac=1, random_state=0)


def _sweep() -> tuple[pd.DataFrame, list[pd.DataFrame], Frontier]:
    """Tables of a reference and of policies, and the frontier of their arrays."""
    rewards = WORLD.sample(16, 0)
    drawn = [WORLD.draw(0.9, kl, 2, 1000 * (j + 1)) for j, kl in enumerate(KLS)]
    arrays = PolicySamples(*(np.stack(one) for one in zip(*drawn, strict=True)))
    tables = [_table(reward, kl_monte_carlo=logratio) for reward, logratio in drawn]
    return _table(rewards), tables, Frontier(rewards, arrays)


def test_tables_give_the_frontier_of_their_arrays() -> None:
    reference, policies, expected = _sweep()
    found = pooled_frontier(reference, policies, PROMPTS)
    assert found is not None
    assert found.policies == expected.policies > 0
    np.testing.assert_allclose(found.columns, expected.columns)


@pytest.mark.parametrize(
    "unusable",
    [
        lambda table: table.drop(columns="kl_monte_carlo"),
        lambda table: table.assign(kl_response_ids=0),
        lambda table: table.assign(reward=table["reward"].where(table["prompt_id"] > 10)),
        lambda table: table[table["prompt_id"] > 10],
        lambda table: table.drop(columns="reward"),
        lambda table: table.iloc[:0],
    ],
)
def test_policies_without_all_that_is_needed_are_left_out(unusable: object) -> None:
    assert callable(unusable)
    reference, policies, expected = _sweep()
    rest = pooled_frontier(reference, [*policies, unusable(policies[0])], PROMPTS)
    none = pooled_frontier(reference, [unusable(one) for one in policies], PROMPTS)
    assert rest is not None
    assert none is not None
    np.testing.assert_allclose(rest.columns, expected.columns)
    assert none.policies == 0
    assert none.valid_kl < expected.valid_kl


def test_a_reference_without_rewards_has_no_frontier() -> None:
    reference, policies, _ = _sweep()
    assert pooled_frontier(reference.drop(columns="reward"), policies, PROMPTS) is None
    lost = reference.assign(reward=np.nan)
    assert pooled_frontier(lost, policies, PROMPTS) is None


def _with_samples(results: SweepResults) -> tuple[SweepResults, Frontier]:
    """A sweep whose reference and first trials gave other responses."""
    reference, policies, expected = _sweep()
    tables = {"samples": reference, "frontier": pd.DataFrame({"kl": [0.0, 0.3], "reward": 0.0})}
    trials = [
        dataclasses.replace(trial, read={"samples": own}.get)
        for trial, own in zip(results.done, policies, strict=False)
    ]
    changed = dataclasses.replace(
        results,
        trials=tuple(trials),
        reference=dataclasses.replace(results.reference, read=tables.get),
    )
    return changed, expected


def test_a_sweeps_frontier_is_carried_on_by_its_trials(folder_of: ByName) -> None:
    results, expected = _with_samples(read_sweep(folder_of("clean")))
    assert results.frontier_on(PROMPTS) is results.optimum
    assert results.frontier[-1].kl == pytest.approx(expected.valid_kl)
    table = frames.frontier(results)
    assert table["reward"].iloc[-1] == pytest.approx(expected.reward_at(expected.valid_kl))
    assert (table["low"] < table["reward"]).all()
    assert (table["reward"] < table["high"]).all()
    some = results.frontier_on(PROMPTS[:64])
    assert some is not None
    assert len(some.kl) == 64


def test_without_log_ratios_a_sweeps_frontier_is_the_stored_one(folder_of: ByName) -> None:
    results, _ = _with_samples(read_sweep(folder_of("clean")))
    old = [
        dataclasses.replace(
            trial, read={"samples": trial.samples.drop(columns="kl_monte_carlo")}.get
        )
        for trial in results.done
    ]
    results = dataclasses.replace(results, trials=tuple(old))
    assert results.frontier == results.reference.frontier
    assert [one.kl for one in results.frontier] == [0.0, 0.3]


def test_a_sweep_without_reward_has_none(folder_of: ByName) -> None:
    results = read_sweep(folder_of("no_reward"))
    assert results.optimum is None
    assert results.frontier == ()
    assert results.frontier_on(PROMPTS) is None
