"""Preference data on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dpo_bench.data.folders import dataset_rows, no_such_split
from dpo_bench.data.rows import Rows
from dpo_bench.errors import DataError, EnvironmentProblem

Answer = TypeVar("Answer")

SECONDS_TO_ANSWER = 20.0


def hub_splits(identifier: str) -> tuple[str, ...]:
    """Names of the splits of a dataset on the hub (offline: of its cached copy), sorted.

    Raises:
        DataError: the hub has no such dataset, or it is laid out in a way that cannot be read.
        EnvironmentProblem: the hub cannot be reached and the dataset is in no local cache.
    """
    import datasets
    import huggingface_hub

    if huggingface_hub.is_offline_mode():
        return tuple(sorted(_ask(identifier, lambda: datasets.load_dataset(identifier))))
    _require_reachable(identifier)
    return tuple(sorted(_ask(identifier, lambda: datasets.get_dataset_split_names(identifier))))


def read_hub(identifier: str, split: str) -> Rows:
    """Read one split of a dataset on the hub, or of its copy in the local cache.

    Raises:
        DataError: no such dataset or split, or an empty one.
        EnvironmentProblem: the hub cannot be reached and the dataset is in no local cache.
    """
    import datasets

    known = hub_splits(identifier)
    if split not in known:
        raise no_such_split(identifier, split, known)
    dataset = _ask(identifier, lambda: datasets.load_dataset(identifier, split=split))
    return dataset_rows(dataset, identifier, split)


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
        raise DataError(f"{identifier} (hub): {_first_line(problem)}") from problem
    except Exception as problem:  # each network library has errors of its own
        raise EnvironmentProblem(
            f"{identifier!r} is no file or folder here, and the hub cannot be reached "
            f"({_first_line(problem)}). Copy the dataset into a folder and give its path."
        ) from problem


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
