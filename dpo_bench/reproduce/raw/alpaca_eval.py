"""AlpacaEval 2's length-controlled win rates, from its public annotations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.external import read_annotations
from dpo_bench.analysis.length_control import length_controlled_leaderboard
from dpo_bench.errors import DataError
from dpo_bench.reproduce.record import PublishedRow, Reproduced
from dpo_bench.wording import counted

ARRAYS = "annotations.npz"
ANNOTATIONS = "results/*/weighted_alpaca_eval_gpt4_turbo/annotations.json"
LEADERBOARD = (
    "src/alpaca_eval/leaderboards/data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
)
BOUND = 1.0
"""points, on the mean: ours, no figure of the paper's"""


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Models that faced one baseline, with their published figures.

    Attributes:
        names: [model].
        preference: [model, instruction], probability that the model's output beats the baseline's;
            NaN where missing.
        length_difference: [model, instruction], characters, the model's minus the baseline's.
        published: [model], length-controlled win rate, percent; NaN where there is none.
        published_raw: [model], win rate, percent; NaN likewise.
    """

    names: tuple[str, ...]
    preference: Array
    length_difference: Array
    published: Array
    published_raw: Array


def run(_source: str, data: Path) -> Reproduced:
    """Published beside reproduced, model by model.

    Args:
        data: annotations.npz, a folder that holds it, or a checkout of tatsu-lab/alpaca_eval.

    Raises:
        DataError: there is neither, or nothing to compare in it.
    """
    board = read_leaderboard(data)
    known = np.isfinite(board.published) & ~_is_the_baseline(board.preference)
    if not known.any():
        raise DataError(f"{data} has no published length-controlled win rate to compare with.")
    ours = length_controlled_leaderboard(board.preference, board.length_difference)
    order = [place for place in np.argsort(-board.published) if known[place]]
    rows = [
        PublishedRow(
            "", "length-controlled win rate", board.names[place],
            float(board.published[place]), float(ours[place]), None, "src",
        )
        for place in order
    ]  # fmt: skip
    apart = np.abs(ours - board.published)[known]
    raw = np.abs(100 * np.nanmean(board.preference, axis=1) - board.published_raw)
    raw = raw[np.isfinite(raw)]
    models = counted(len(apart), "model")
    return Reproduced(
        (
            *rows,
            PublishedRow("", "mean difference (points)", models, 0.0, float(apart.mean()), BOUND),
            PublishedRow("", "largest difference (points)", models, 0.0, float(apart.max())),
            PublishedRow(
                "", "raw win rate, largest difference (points)", counted(len(raw), "model"),
                0.0, float(raw.max()) if len(raw) else None,
            ),
        ),
        TEXT.format(models=len(board.names), compared=len(apart), bound=BOUND),
    )  # fmt: skip


def _is_the_baseline(preference: Array) -> NDArray[np.bool_]:
    """Which models' outputs are the baseline's own: 50% by definition, and nothing to compare."""
    return np.asarray(((preference == 0.5) | np.isnan(preference)).all(axis=1))


def read_leaderboard(data: Path) -> Leaderboard:
    """Annotations with the published figures, from arrays or from a checkout.

    Raises:
        DataError: there is neither, or it cannot be read.
    """
    file = data / ARRAYS if data.is_dir() else data
    try:
        if file.is_file():
            return _arrays(file)
        if files := sorted(data.glob(ANNOTATIONS)):
            return _checkout(data, files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{data} cannot be read: {type(error).__name__}: {error}") from error
    raise DataError(
        f"{data} holds neither {ARRAYS} nor {ANNOTATIONS}: give a checkout of"
        " https://github.com/tatsu-lab/alpaca_eval, or a folder with the arrays."
    )


def _arrays(file: Path) -> Leaderboard:
    with np.load(file, allow_pickle=False) as content:
        names = tuple(map(str, content["names"]))
        nowhere = np.full(len(names), np.nan)
        return Leaderboard(
            names,
            content["preference"].astype(np.float64),
            content["length_difference"].astype(np.float64),
            content["published_lc"].astype(np.float64),
            content["published_wr"].astype(np.float64) if "published_wr" in content else nowhere,
        )


def _checkout(folder: Path, files: list[Path]) -> Leaderboard:
    """Each instruction is found again by its text, and by its place among equal ones."""
    names = [file.parent.parent.name for file in files]
    tables = [_one_model(file) for file in files]
    wins = pd.DataFrame(dict(zip(names, (one["win"] for one in tables), strict=True))).T
    longer = pd.DataFrame(dict(zip(names, (one["extra_length"] for one in tables), strict=True))).T
    published = pd.read_csv(folder / LEADERBOARD, index_col=0).reindex(names)
    return Leaderboard(
        tuple(names),
        wins.to_numpy(np.float64),
        longer.fillna(0).to_numpy(np.float64),
        published["length_controlled_winrate"].to_numpy(np.float64),
        published["win_rate"].to_numpy(np.float64),
    )


def _one_model(file: Path) -> pd.DataFrame:
    table = read_annotations(file)
    table["again"] = table.groupby("prompt").cumcount()
    return table.set_index(["prompt", "again"])[["win", "extra_length"]].astype(np.float64)


TEXT = """\
AlpacaEval 2 explains the judge's preference for a model over the baseline by the model, the length
difference and how hard the instruction is, and reads its win rate at no difference in length. The
same model, fitted here to the annotations of {models} models, beside the figures of {compared} of
them on the public leaderboard. Two things differ and are not published with the annotations: the
authors fitted the difficulties to the leaderboard of early 2024, and they steady each fit by
annotations of two variants of the baseline, for which what all models have in common stands in
here. With few models, or with models unlike those of the leaderboard, the difficulties and so the
figures are further apart. The bound of {bound:g} point on the mean difference is ours. No length
enters the raw win rate: it shows whether these are the annotations that were published."""
