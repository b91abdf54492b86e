"""Every trial against every other, the reference and the chosen responses, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array, win_fraction
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.ledger import Ledger

OPPONENTS = "opponents.parquet"
COST = "opponents.json"
"""What a judge's round robin took."""
REFERENCE, CHOSEN = "reference", "chosen"
"""What the players that are no trials are called."""


def round_robin(rewards: Sequence[ArrayLike]) -> Array:
    """Everyone against everyone, prompt by prompt.

    >>> wins = round_robin([[[1.0, 3.0]], [[2.0]]])
    >>> wins[:, :, 0].tolist()
    [[0.5, 0.5], [0.5, 0.5]]

    Args:
        rewards: for each player [prompts, samples]; the number of samples may differ.

    Returns:
        [player, player, prompt]: the share of response pairs that the first wins, ties a half.
        ``wins[a, b] + wins[b, a]`` is 1, and the diagonal .5.

    Raises:
        ValueError: a reward is missing, or the players' prompts are not the same.
    """
    tables = [np.asarray(one, dtype=np.float64) for one in rewards]
    prompts = len(tables[0]) if tables else 0
    wins = np.full((len(tables), len(tables), prompts), 0.5)
    for first, ours in enumerate(tables):
        for second in range(first):
            share = win_fraction(ours, tables[second]).mean(axis=1)
            wins[first, second], wins[second, first] = share, 1 - share
    return wins


def read_opponents(file: Path) -> tuple[list[str], Array]:
    """The players and their wins, [player, player, prompt], as `round_robin` gives them.

    A comparison for which a judge gave no verdict is NaN.

    Raises:
        EnvironmentProblem: the file is missing or damaged.
    """
    table = Ledger(file.parent).read_parquet(file.name)
    names = list(dict.fromkeys([*table["trial"], *table["opponent"]]))
    prompts = int(table["prompt_id"].max()) + 1 if len(table) else 0
    if len(table) != len(names) * (len(names) - 1) // 2 * prompts:
        raise EnvironmentProblem(f"{file} lacks some pairs of players: run the sweep again.")
    wins = np.full((len(names), len(names), prompts), 0.5)
    place = {name: index for index, name in enumerate(names)}
    first = table["trial"].map(place).to_numpy(np.intp)
    second = table["opponent"].map(place).to_numpy(np.intp)
    share, prompt = table["win"].to_numpy(np.float64), table["prompt_id"].to_numpy(np.intp)
    wins[first, second, prompt], wins[second, first, prompt] = share, 1 - share
    return names, wins
