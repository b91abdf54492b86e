"""Every trial against every other, on rewards whose wins can be counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.opponents import read_opponents
from dpo_bench.storage import read_parquet, write_parquet
from dpo_bench.sweep.round_robin import write_opponents
from dpo_bench.sweep.store import Manifest, Store, write_manifest


def samples(rewards: list[list[float]]) -> pd.DataFrame:
    """Rewards [prompt, sample] as a trial stores them."""
    return pd.DataFrame(
        [
            {"prompt_id": prompt, "sample": sample, "reward": reward}
            for prompt, row in enumerate(rewards)
            for sample, reward in enumerate(row)
        ]
    )


def trial(store: Store, name: str, rewards: list[list[float]], status: str = "done") -> None:
    with store.new_trial(name) as folder:
        write_parquet(folder / "samples.parquet", samples(rewards))
        write_manifest(folder, Manifest(name, status, "dpo", "beta", 0.1, {}, 0))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two trials, a failed one, and the reference: two prompts."""
    store = Store(tmp_path)
    trial(store, "one", [[1.0, 0.0], [3.0, 3.0]])
    trial(store, "two", [[0.0, 0.0], [3.0, 5.0]])
    trial(store, "failed", [[9.0, 9.0], [9.0, 9.0]], status="failed")
    return store


def reference(store: Store, rewards: list[list[float]], chosen: list[float]) -> None:
    write_parquet(store.reference_folder / "samples.parquet", samples(rewards))
    prompts = pd.DataFrame({"prompt_id": range(len(chosen)), "chosen_reward": chosen})
    write_parquet(store.reference_folder / "prompts.parquet", prompts)


def test_wins_are_shares_of_response_pairs_with_ties_a_half(store: Store) -> None:
    reference(store, [[0.5, -1.0, -2.0], [3.0, 4.0, 5.0]], [0.0, 4.0])
    file = write_opponents(store, ["one", "failed", "later", "two"])
    assert file == store.folder / "opponents.parquet"
    players, wins = read_opponents(file)
    assert players == ["one", "two", "reference", "chosen"]
    expected = {
        # of four pairs: 1 > 0 twice, 0 = 0 twice; 3 = 3 twice, 3 < 5 twice
        ("one", "two"): [0.75, 0.25],
        # of six: 1 beats all, 0 all but one; 3 ties once, twice
        ("one", "reference"): [5 / 6, 1 / 6],
        ("one", "chosen"): [0.75, 0.0],
        ("two", "reference"): [4 / 6, (0.5 + 2.5) / 6],
        ("two", "chosen"): [0.5, 0.5],
        ("reference", "chosen"): [1 / 3, 0.5],
    }
    for (first, second), shares in expected.items():
        left, right = players.index(first), players.index(second)
        np.testing.assert_allclose(wins[left, right], shares, rtol=1e-12)
        np.testing.assert_allclose(wins[right, left], 1 - np.array(shares), rtol=1e-12)
    assert (wins[range(4), range(4)] == 0.5).all()


def test_table_has_each_two_players_once_for_each_prompt(store: Store) -> None:
    reference(store, [[0.5], [3.0]], [0.0, 4.0])
    file = write_opponents(store, ["one", "two"])
    assert file is not None
    table = read_parquet(file)
    met = list(zip(table["trial"], table["opponent"], table["prompt_id"], strict=True))
    assert len(met) == len(set(met)) == 6 * 2
    assert met[:3] == [("one", "two", 0), ("one", "two", 1), ("one", "reference", 0)]


def test_nothing_is_written_without_reference_reward_or_trial(store: Store) -> None:
    assert write_opponents(store, ["one", "two"]) is None
    reference(store, [[0.5], [3.0]], [0.0, 4.0])
    assert write_opponents(store, ["failed", "later"]) is None
    reference(store, [[0.5], [np.nan]], [0.0, 4.0])
    assert write_opponents(store, ["one", "two"]) is None
    assert not (store.folder / "opponents.parquet").exists()


def test_too_many_trials_leave_the_table_out(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reference(store, [[0.5], [3.0]], [0.0, 4.0])
    file = write_opponents(store, ["one", "two"])
    assert file is not None
    monkeypatch.setattr("dpo_bench.sweep.round_robin.MOST_WINS", 4 * 4 * 2)
    assert write_opponents(store, ["one", "two"]) == file
    monkeypatch.setattr("dpo_bench.sweep.round_robin.MOST_WINS", 4 * 4 * 2 - 1)
    with caplog.at_level("INFO"):
        assert write_opponents(store, ["one", "two"]) is None
    assert "2 trials are too many" in caplog.text
    assert not file.exists(), "one of fewer trials would be taken for that of all"
