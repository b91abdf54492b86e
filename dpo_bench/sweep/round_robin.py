"""Every trial against every other, the reference and the chosen responses, prompt by prompt.

Made after the sweep from what the trials have stored. `opponents.parquet` is what Bradley-Terry
strengths are fitted to: trial, opponent, prompt_id, win (the share of response pairs to that prompt
that the trial wins, ties a half), each pair of players once.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpo_bench.analysis.opponents import CHOSEN, COST, OPPONENTS, REFERENCE, round_robin
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import write_json, write_parquet
from dpo_bench.sweep.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from dpo_bench.analysis.bootstrap import Array
    from dpo_bench.rewards.judge import Cost, Judge

log = logging.getLogger(__name__)

MOST_WINS = 1 << 29
"""Wins by two players and prompt that are computed at most, eight bytes each: they grow with the
square of the trials, and are had for 1,446 trials on 256 prompts."""


def write_opponents(
    store: Store,
    identities: Sequence[str],
    judge: Judge | None = None,
    progress: Progress = quiet,
) -> Path | None:
    """Write ``opponents.parquet`` for the finished trials of a plan.

    Args:
        store: the sweep's folder.
        identities: its planned trials.
        judge: judges the first response of every two players to each prompt; None: the stored
            rewards of all responses decide.
        progress: told of the judging.

    Returns:
        the file; None where there is neither reward nor judge, or no trial, or too many of them.

    Raises:
        TrialError: the judge fails on too many.
    """
    done = [one for one in identities if (found := store.manifest(one)) and found.status == "done"]
    if not done or not store.reference_folder.is_dir():
        return None
    names = [*done, REFERENCE, CHOSEN]
    file = store.folder / OPPONENTS
    prompts = store.reference().read_parquet("prompts.parquet")
    if judge is None and len(names) ** 2 * len(prompts) > MOST_WINS:
        log.info(
            "%d trials are too many for a table of everyone against everyone: it is left out",
            len(done),
        )
        with store.ledger.writing([OPPONENTS]):
            file.unlink(missing_ok=True)  # of fewer trials
        return None
    cost = None
    if judge is not None:
        wins, cost = _judged(judge, store, done, prompts, progress)
    else:
        rewards = _rewards(store, done, prompts)
        if rewards is None:
            return None
        wins = round_robin(rewards)
    file = store.folder / OPPONENTS
    with store.ledger.writing([OPPONENTS, *([COST] if cost else [])]):
        if cost is not None:
            write_json(store.folder / COST, {"judge": asdict(cost)})
        write_parquet(file, _table(names, wins))
    return file


def _samples(store: Store, trials: Sequence[str]) -> Iterator[pd.DataFrame]:
    """One trial's after another, then the reference's."""
    for one in trials:
        yield store.sealed_trial(one).read_parquet("samples.parquet")
    yield store.reference().read_parquet("samples.parquet")


def _rewards(store: Store, trials: Sequence[str], prompts: pd.DataFrame) -> list[Array] | None:
    """Rewards [prompt, sample] of every player; None without a reward."""
    (reference,) = _samples(store, ())
    if reference["reward"].isna().any():
        return None
    columns = [table["reward"] for table in _samples(store, trials)]
    columns.append(prompts["chosen_reward"])
    return [column.to_numpy(np.float64).reshape(len(prompts), -1) for column in columns]


def _judged(
    judge: Judge,
    store: Store,
    trials: Sequence[str],
    prompts: pd.DataFrame,
    progress: Progress,
) -> tuple[Array, Cost]:
    """Wins by a judge, of every player's first response to each prompt, and what they took."""
    texts = [list(table[table["sample"] == 0]["response"]) for table in _samples(store, trials)]
    texts.append(list(prompts["chosen"]))
    count = len(prompts)
    pairs = list(itertools.combinations(range(len(texts)), 2))
    judged = judge.compare(
        list(prompts["transcript"]) * len(pairs),
        [text for first, _ in pairs for text in texts[first]],
        [text for _, second in pairs for text in texts[second]],
        progress,
    )
    wins = np.full((len(texts), len(texts), count), 0.5)
    for (first, second), share in zip(pairs, judged.wins.reshape(-1, count), strict=True):
        wins[first, second], wins[second, first] = share, 1 - share
    return wins, judged.cost


def _table(names: Sequence[str], wins: Array) -> pd.DataFrame:
    import pandas as pd

    first, second = np.triu_indices(len(names), 1)
    prompts = wins.shape[2]
    kind = pd.CategoricalDtype(list(names))
    return pd.DataFrame(
        {
            "trial": pd.Categorical.from_codes(np.repeat(first, prompts), dtype=kind),
            "opponent": pd.Categorical.from_codes(np.repeat(second, prompts), dtype=kind),
            "prompt_id": np.tile(np.arange(prompts, dtype=np.int32), len(first)),
            "win": wins[first, second].ravel(),
        }
    )
