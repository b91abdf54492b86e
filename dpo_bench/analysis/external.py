"""Results of another trainer or benchmark, read as a sweep's, so that they can be judged alike.

A tidy table has a row per run and prompt, with the columns loss, strength, seed, prompt, kl, reward
(``win`` optional), or a row per run, without prompt. AlpacaEval's ``annotations.json`` gives win
rates and lengths, and no KL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpo_bench.analysis.bootstrap import bootstrap_mean, resample_weights
from dpo_bench.analysis.estimate import Estimate, finite
from dpo_bench.analysis.results import DEFAULT_RESAMPLES, NO_REFERENCE, WINS, SweepResults, Trial
from dpo_bench.analysis.win_rates import win_rate
from dpo_bench.errors import ConfigurationError, DataError
from dpo_bench.storage import digest, read_parquet

KEYS = ("loss", "strength", "seed")
"""What tells a run from another; strength and seed may be left out or missing."""
_COLUMNS = {
    "kl": "kl",
    "reward": "reward",
    "win": "win_reference",
    "tokens": "tokens",
    "extra_length": "extra_length",
}
"""column of the table -> of a sweep's ``samples.parquet``"""
_METRICS = {"kl": "kl", "reward": "reward", "win": "win_rate", "tokens": "response_tokens"}


def read_file(path: Path) -> SweepResults:
    """Results of a file: .parquet, .csv or .jsonl with a tidy table, or AlpacaEval's .json.

    Raises:
        ConfigurationError: there is no such file, or its ending says nothing.
        DataError: it cannot be read, or lacks a column.
    """
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}.")
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".parquet": read_parquet,
        ".csv": pd.read_csv,
        ".jsonl": lambda file: pd.read_json(file, lines=True),
        ".json": lambda file: read_annotations(file).dropna(subset="win"),
    }
    if path.suffix not in readers:
        raise ConfigurationError(
            f"{path}: give a .parquet, .csv or .jsonl table, or AlpacaEval's annotations.json."
        )
    try:
        frame = readers[path.suffix](path)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return from_frame(frame, str(path))


def from_frame(frame: pd.DataFrame, name: str = "the table") -> SweepResults:
    """A tidy table as a sweep's results.

    Args:
        frame: a row per run and prompt: loss, strength, seed, prompt, kl (nats), reward; or win
            (share of opponents beaten) instead of or beside reward. Several rows of one prompt are
            its samples. Without prompt: a row per run, so that only runs tell how sure a figure is.
            strength and seed may be left out where there is one of each.
        name: what messages call the table.

    Raises:
        DataError: a column is missing, a value is no finite number, or nothing was measured.
    """
    table = _checked(frame, name)
    by_prompt = "prompt" in table
    if not by_prompt:
        _require_one_row(table, name)
        table = table.assign(prompt=0)
    codes, prompts = pd.factorize(table["prompt"], sort=True)
    table = table.assign(prompt_id=codes)
    trials = tuple(_trials(table, by_prompt))
    return SweepResults(
        folder=Path(name),
        table=pd.DataFrame([dict(trial.row) for trial in trials]),
        experiment={},
        command="",
        versions={},
        platform="",
        hashes={},
        counts={},
        planned=tuple(trial.id for trial in trials),
        trials=trials,
        reference=NO_REFERENCE,
        scored_by="a reward" if "reward" in table else WINS,
        prompts_known=by_prompt,
        remarks=(_origin(Path(name).name, len(trials), len(prompts) if by_prompt else None),),
    )


def _origin(name: str, runs: int, prompts: int | None) -> str:
    where = "one figure of each" if prompts is None else f"{prompts:,} prompts"
    return (
        f"Read from {name}: {runs:,} runs, {where}. How they were trained and measured is not"
        " recorded there and was not checked."
    )


def _checked(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    if "loss" not in frame:
        raise DataError(f"{name} lacks the column loss; it has {', '.join(map(str, frame))}.")
    if "reward" not in frame and "win" not in frame:
        raise DataError(f"{name} has neither a column reward nor win: there is nothing to compare.")
    if frame.empty:
        raise DataError(f"{name} has no rows.")
    table = frame.assign(loss=frame["loss"].astype(str), seed=_seeds(frame, name))
    for key in ("strength", *_COLUMNS):
        if key in frame:
            table[key] = _numbers(frame[key], f"{name}, row {{}}: {key}", key == "strength")
    if "strength" not in frame:
        table["strength"] = np.nan
    if "win" in table and not table["win"].between(0, 1).all():
        row = _first(~table["win"].between(0, 1))
        raise DataError(f"{name}, row {row + 1}: win is {table['win'].iloc[row]:g}, no share.")
    return table


def _first(wrong: pd.Series[bool] | NDArray[np.bool_]) -> int:
    """The position of the first wrong row, which the error names."""
    return int(np.flatnonzero(wrong)[0])


def _numbers(column: pd.Series[Any], where: str, optional: bool) -> pd.Series[float]:
    """A column of finite numbers; missing ones are allowed where they are optional."""
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    wrong = ~np.isfinite(numbers)
    if optional:
        wrong &= column.notna()
    if wrong.any():
        row = _first(wrong)
        raise DataError(f"{where.format(row + 1)} is {_shown(column.iloc[row])}, no number.")
    return numbers


def _seeds(frame: pd.DataFrame, name: str) -> pd.Series[int]:
    if "seed" not in frame:
        return pd.Series(0, index=frame.index)
    seeds = pd.to_numeric(frame["seed"], errors="coerce")
    wrong = seeds.isna() | (seeds != seeds.round())
    if wrong.any():
        row = _first(wrong)
        raise DataError(
            f"{name}, row {row + 1}: seed is {_shown(frame['seed'].iloc[row])}, no whole number."
        )
    return seeds.astype("int64")


def _require_one_row(table: pd.DataFrame, name: str) -> None:
    twice = table.duplicated(list(KEYS), keep="first")
    if twice.any():
        row = _first(twice)
        loss, strength, seed = (table[key].iloc[row] for key in KEYS)
        raise DataError(
            f"{name}, row {row + 1}: a second row of {loss}, strength {strength:g}, seed {seed}:"
            " several rows of a run need the column prompt."
        )


def _trials(table: pd.DataFrame, by_prompt: bool) -> Iterator[Trial]:
    groups: Iterable[Any] = table.groupby(list(KEYS), sort=False, dropna=False)
    for (loss, strength, seed), rows in groups:
        identity = digest([str(loss), repr(float(strength)), int(seed)])[:16]
        own = None if np.isnan(strength) else float(strength)
        samples = rows[[c for c in ("prompt_id", "prompt", "response") if c in rows]].assign(
            sample=rows.groupby("prompt_id").cumcount(),
            **{column: rows[given] for given, column in _COLUMNS.items() if given in rows},
        )
        metrics = {
            metric: _estimate(rows, given, by_prompt).as_dict()
            for given, metric in _METRICS.items()
            if given in rows
        }
        yield Trial(
            id=identity,
            loss=str(loss),
            strength_name="strength",
            strength=own,
            hyperparameters={} if own is None else {"strength": own},
            seed=int(seed),
            status="done",
            error="",
            traceback="",
            row={"trial": identity, "loss": str(loss), "beta": own, "seed": int(seed)},
            metrics=metrics,
            read={"samples": samples.reset_index(drop=True)}.get,
        )


def _estimate(rows: pd.DataFrame, column: str, by_prompt: bool) -> Estimate:
    means = rows.groupby("prompt_id")[column].mean().to_numpy(float)
    if not by_prompt:
        return Estimate(float(means[0]))
    mean = win_rate if column == "win" else bootstrap_mean
    return mean(means, resample_weights(len(means), DEFAULT_RESAMPLES, 0))


def read_annotations(path: Path) -> pd.DataFrame:
    """AlpacaEval's annotations: a row per comparison of a model with the baseline.

    Returns:
        loss (the model), prompt, win (missing where the judge gave no preference), extra_length
        (characters, the model's output minus the baseline's) and response.

    Raises:
        TypeError: the file holds no list.
        KeyError: an annotation lacks a field.
        ValueError: it is no JSON, or a preference is none.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, list):
        raise TypeError("not a list of annotations")
    return pd.DataFrame([_annotation(entry, row) for row, entry in enumerate(content, 1)])


def _annotation(entry: Mapping[str, Any], row: int) -> dict[str, Any]:
    """One comparison; the preference is 1 for the first output, 2 for the second, or between.

    As AlpacaEval reads it the second output is the model's and the first the baseline's; 0 and 1.5
    are ties.
    """
    missing = {"instruction", "output_1", "output_2", "generator_2", "preference"} - set(entry)
    if missing:
        raise KeyError(f"annotation {row} lacks {', '.join(sorted(missing))}")
    preference = finite(entry["preference"])
    if preference is not None and not (preference == 0 or 1 <= preference <= 2):
        raise ValueError(f"annotation {row}: preference is {entry['preference']}, not 1 to 2")
    lengths = [len(str(entry[key])) for key in ("output_1", "output_2")]
    return {
        "loss": entry["generator_2"],
        "prompt": entry["instruction"],
        "win": None if preference is None else 0.5 if preference == 0 else preference - 1,
        "extra_length": lengths[1] - lengths[0],
        "response": entry["output_2"],
    }


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)
