"""Preference data on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from dpo_bench.data.folders import dataset_rows, unreadable
from dpo_bench.data.rows import Rows
from dpo_bench.data.splits import find_split
from dpo_bench.errors import DataError, EnvironmentProblem

Answer = TypeVar("Answer")

SECONDS_TO_ANSWER = 20.0


def hub_splits(identifier: str, subset: str | None = None) -> tuple[str, ...]:
    """Names of the splits of a dataset on the hub (offline: of its cached copy), sorted.

    Raises:
        DataError: the hub has no such dataset, or it is laid out in a way that cannot be read.
        EnvironmentProblem: the hub cannot be reached and the dataset is in no local cache.
    """
    import datasets
    import huggingface_hub

    if huggingface_hub.is_offline_mode():
        return tuple(sorted(_ask(identifier, lambda: datasets.load_dataset(identifier, subset))))
    _require_reachable(identifier)
    names = _ask(identifier, lambda: datasets.get_dataset_split_names(identifier, subset))
    return tuple(sorted(names))


def read_hub(identifier: str, split: str, subset: str | None = None) -> Rows:
    """Read one split of a dataset on the hub, or of its copy in the local cache.

    Raises:
        DataError: no such dataset or split, or an empty one.
        EnvironmentProblem: the hub cannot be reached and the dataset is in no local cache.
    """
    import datasets

    found = find_split(identifier, split, hub_splits(identifier, subset))
    dataset = _ask(identifier, lambda: datasets.load_dataset(identifier, subset, split=found))
    rows = dataset_rows(dataset, identifier, found)
    return rows if found == split else replace(rows, notes=(f"split: {found}",))


def _require_reachable(identifier: str) -> None:
    """One quick question to the hub: left alone, the libraries retry for half a minute."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    _ask(identifier, lambda: api.dataset_info(identifier, timeout=SECONDS_TO_ANSWER))


def _ask(identifier: str, question: Callable[[], Answer]) -> Answer:
    """Put a question to the hub's libraries and turn what they raise into an error of a line."""
    import datasets
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    not_found: tuple[type[Exception], ...] = (
        RepositoryNotFoundError,
        HFValidationError,
        datasets.exceptions.DatasetNotFoundError,
    )
    try:
        return question()
    except not_found as problem:
        raise DataError(
            f"{identifier!r} is no file or folder here and no dataset on the hub that you may "
            "read; if it is private or gated, log in with `hf auth login`."
        ) from problem
    except (ValueError, datasets.exceptions.DatasetsError) as problem:
        raise unreadable(f"{identifier} (hub)", problem) from problem
    except Exception as problem:  # each network library has errors of its own
        raise EnvironmentProblem(
            f"{identifier!r} is no file or folder here, and the hub cannot be reached "
            f"({_first_line(problem)}). Copy the dataset into a folder and give its path."
        ) from problem


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
