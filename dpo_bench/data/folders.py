"""Preference data in a folder, which may hold several splits.

A folder is read by the first rule that fits:

1. what ``datasets`` wrote with ``save_to_disk``;
2. a file ``<split>.jsonl`` (or .json, .parquet, .csv) directly in it is that split;
3. a dataset in the hub's layout: splits from file names (``data/train-00000-of-00002.parquet``) or
   from the ``configs`` of its README; files whose names say nothing are the split ``train``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_bench.contract.suggestions import nearest
from dpo_bench.data.files import READERS, read_file
from dpo_bench.data.rows import Rows
from dpo_bench.errors import DataError

HELDOUT = "heldout"
"""A split of this name holds the held-out pairs unless the configuration names another."""


def read_folder(folder: Path, label: str, split: str) -> Rows:
    """Read one split of a folder.

    Raises:
        DataError: no such split, or content that is no table of preference pairs.
    """
    if _is_saved(folder):
        return _read_saved(folder, label, split)
    files = _named_file(folder, split) or hub_layout(folder, label).get(split)
    if not files:
        raise no_such_split(label, split, folder_splits(folder, label))
    parts = [read_file(file, f"{label}/{file.relative_to(folder).as_posix()}") for file in files]
    return parts[0] if len(parts) == 1 else Rows.joined(label, parts)


def folder_splits(folder: Path, label: str) -> tuple[str, ...]:
    """Names of the splits that a folder holds, sorted."""
    if _is_saved(folder):
        return tuple(sorted(_load_saved(folder, label)))
    named = {file.stem for file in _data_files(folder)}
    layout = hub_layout(folder, label)
    # A file that the layout counts to a split is no split of its own, unless it says so by name.
    covered = {file.stem for split, files in layout.items() for file in files if split != file.stem}
    return tuple(sorted((named - covered) | set(layout)))


def has_heldout(folder: Path, label: str) -> bool:
    """Whether a folder has a split named ``heldout``; looks no further than it must."""
    if not _is_saved(folder) and _named_file(folder, HELDOUT):
        return True
    return HELDOUT in folder_splits(folder, label)


def no_such_split(label: str, split: str, known: Sequence[str]) -> DataError:
    """The error for a split that does not exist."""
    names = ", ".join(known) or "none"
    return DataError(f"{label} has no split {split!r}{nearest(split, known)}; its splits: {names}.")


def hub_layout(folder: Path, label: str) -> dict[str, list[Path]]:
    """Split -> its files, resolved by ``datasets``; only the names are its work, not the reading.

    Nothing is copied to its cache, which would be keyed by paths and modification times.
    """
    if not any(file.suffix.lower() in READERS for file in folder.rglob("*")):
        raise DataError(f"{label} holds no file of preference data ({', '.join(READERS)}).")
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = datasets.load_dataset_builder(str(folder.resolve()), cache_dir=cache)
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as problem:
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            raise DataError(f"{label} is no readable dataset: {reason}") from None
    layout: Mapping[Any, Sequence[str]] = builder.config.data_files or {}
    root = folder.resolve()
    splits = {
        str(split): [folder / Path(file).relative_to(root) for file in files]
        for split, files in layout.items()
    }
    return {
        # Without names to go by, every file counts as training data; this one says that it is not.
        split: [file for file in files if split == HELDOUT or file.stem != HELDOUT]
        for split, files in splits.items()
    }


def _data_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in READERS)


def _named_file(folder: Path, split: str) -> list[Path]:
    files = [file for file in _data_files(folder) if file.stem == split]
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise DataError(f"{folder}: both {names} could be the split {split!r}; remove one.")
    return files


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _load_saved(folder: Path, label: str) -> dict[str, Any]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except IndexError:  # what a dataset saved without rows gives
        raise DataError(f"{label} is empty: it was saved without a row.") from None
    except (ValueError, OSError, KeyError) as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise DataError(f"{label} is no readable saved dataset: {reason}") from None
    if isinstance(saved, datasets.DatasetDict):
        return dict(saved)
    return {str(saved.split or "train"): saved}


def _read_saved(folder: Path, label: str, split: str) -> Rows:
    splits = _load_saved(folder, label)
    if split not in splits:
        raise no_such_split(label, split, sorted(splits))
    return dataset_rows(splits[split], label, split)


def dataset_rows(dataset: Any, label: str, split: str) -> Rows:
    """Rows of a `datasets.Dataset`."""
    rows = Rows.numbered(label, dataset.with_format(None).to_list())
    if not rows.records:
        raise DataError(f"{label}: its split {split!r} is empty.")
    return rows
