"""Preference data in a folder, which may hold several splits.

A folder is read by the first rule that fits:

1. what ``datasets`` wrote with ``save_to_disk``;
2. a file ``<split>.jsonl`` (or another kind that can be read) directly in it is that split;
3. files ``<split>-00000-of-00002.parquet`` directly in it are that split;
4. a dataset in the hub's layout: splits from file names (``data/train-00000-of-00002.parquet``) or
   from the ``configs`` of its README; files whose names say nothing are the split ``train``.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpo_bench.data.opening import stem_of
from dpo_bench.data.rows import Rows
from dpo_bench.data.splits import HELDOUT, find_split
from dpo_bench.data.table_files import READERS, is_data_file, read_file
from dpo_bench.errors import DataError

CONFIGURATIONS = re.compile(
    r"(?:available configs: \[|Available: \[|configurations in the cache: )([^\]\n]+)"
)
"""How ``datasets`` lists the configurations of which one is to be named."""

SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")


def read_folder(folder: Path, label: str, split: str, subset: str | None = None) -> Rows:
    """Read one split of a folder.

    Args:
        folder: the folder.
        label: how messages call it.
        split: the split, or the beginning of the only name that it can be (see `find_split`).
        subset: a folder within it, or a configuration that its README names.

    Raises:
        DataError: no such split, or content that is no table of preference pairs.
    """
    folder, label, subset = _within(folder, label, subset)
    if _is_saved(folder):
        return _read_saved(folder, label, split)
    files = _named_file(folder, split)
    notes: list[str] = []
    if not files:
        layout = hub_layout(folder, label, subset)
        found = find_split(label, split, _known(folder, layout))
        files = layout.get(found) or _named_file(folder, found)
        notes = _notes(folder, files, split, found)
    parts = [read_file(file, f"{label}/{file.relative_to(folder).as_posix()}") for file in files]
    rows = parts[0] if len(parts) == 1 else Rows.joined(label, parts)
    return replace(rows, notes=(*notes, *rows.notes))


def folder_splits(folder: Path, label: str, subset: str | None = None) -> tuple[str, ...]:
    """Names of the splits that a folder holds, sorted."""
    folder, label, subset = _within(folder, label, subset)
    if _is_saved(folder):
        return tuple(sorted(_load_saved(folder, label)))
    return _known(folder, hub_layout(folder, label, subset))


def _known(folder: Path, layout: Mapping[str, Sequence[Path]]) -> tuple[str, ...]:
    """Names of the splits by the layout, and by the names of single files."""
    named = {stem_of(file) for file in _data_files(folder)}
    # A file that the layout counts to a split is no split of its own, unless it says so by name.
    covered = {
        stem_of(file) for split, files in layout.items() for file in files if split != stem_of(file)
    }
    return tuple(sorted((named - covered) | set(layout)))


def has_heldout(folder: Path, label: str, subset: str | None = None) -> bool:
    """Whether a folder has a split named ``heldout``; looks no further than it must."""
    inner, _, _ = _within(folder, label, subset)
    if not _is_saved(inner) and _named_file(inner, HELDOUT):
        return True
    return HELDOUT in folder_splits(folder, label, subset)


def hub_layout(folder: Path, label: str, subset: str | None = None) -> dict[str, list[Path]]:
    """Split -> its files: shards by their names, else as ``datasets`` resolves them.

    Only the names are its work, not the reading: nothing is copied to its cache, which would be
    keyed by paths and modification times.
    """
    if not any(map(is_data_file, folder.rglob("*"))):
        raise DataError(
            f"{label} holds no file of preference data ({', '.join(READERS)}, also compressed)."
        )
    shards = _shards(folder)
    if shards and not subset:
        return shards
    root = folder.resolve()
    splits: dict[str, list[Path]] = {}
    for split, names in _resolve(root, label, subset).items():
        files = [folder / Path(name).relative_to(root) for name in names]
        # Without names to go by, every file counts as training data; this one says that it is not.
        files = [file for file in files if split == HELDOUT or stem_of(file) != HELDOUT]
        if files:
            splits[str(split)] = files
    return splits


def _within(folder: Path, label: str, subset: str | None) -> tuple[Path, str, str | None]:
    """The folder that a subset names, if it is one; and no folder that holds everything."""
    whole, home = folder.resolve(), Path("~").expanduser().resolve()
    if whole == Path(whole.anchor) or home.is_relative_to(whole):
        raise DataError(
            f"{label} is no folder of preference data, but all of a home or a disk: name the "
            "folder or file that holds the pairs."
        )
    if subset and "/" not in subset and (folder / subset).is_dir():
        return folder / subset, f"{label}/{subset}", None
    return folder, label, subset


def _shards(folder: Path) -> dict[str, list[Path]]:
    """The shards directly in a folder, where ``datasets`` takes ``train_sft`` for ``train``."""
    splits: dict[str, list[Path]] = {}
    for file in _data_files(folder):
        match = SHARD.fullmatch(stem_of(file))
        if match:
            splits.setdefault(match[1], []).append(file)
    return splits


def _resolve(root: Path, label: str, subset: str | None) -> Mapping[Any, Sequence[str]]:
    """Split -> its files, by the rules of ``datasets``."""
    import datasets
    from datasets.data_files import DataFilesDict, get_data_patterns

    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = datasets.load_dataset_builder(str(root), subset, cache_dir=cache)
        except RuntimeError:  # a script of its own, which it does not run, and nor do we
            patterns = get_data_patterns(str(root))
            return dict(DataFilesDict.from_patterns(patterns, base_path=str(root)))
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as problem:
            raise unreadable(label, problem) from None
    return builder.config.data_files or {}


def unreadable(label: str, problem: Exception) -> DataError:
    """The error for what ``datasets`` refuses; where a configuration is to be named, that key."""
    text = str(problem).strip() or type(problem).__name__
    several = CONFIGURATIONS.search(text)
    if several is None:
        return DataError(f"{label} is no readable dataset: {text.splitlines()[0]}")
    names = sorted(name.strip(" '") for name in several[1].split(","))
    return DataError(
        f"{label} has several configurations: {', '.join(names)}. Name one as data.subset."
    )


def _notes(folder: Path, files: Sequence[Path], split: str, found: str) -> list[str]:
    """What to say about a split that was found rather than named."""
    notes = [] if split == found else [f"split: {found}"]
    parents = sorted({file.parent.relative_to(folder).as_posix() for file in files})
    if len(parents) > 1:
        notes.append(f"read together: the folders {', '.join(parents)} (data.subset names one)")
    return notes


def _data_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_data_file(file))


def _named_file(folder: Path, split: str) -> list[Path]:
    files = [file for file in _data_files(folder) if stem_of(file) == split]
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
    found = find_split(label, split, sorted(splits))
    rows = dataset_rows(splits[found], label, found)
    return rows if split == found else replace(rows, notes=(f"split: {found}",))


def dataset_rows(dataset: Any, label: str, split: str) -> Rows:
    """Rows of a `datasets.Dataset`."""
    rows = Rows.numbered(label, dataset.with_format(None).to_list())
    if not rows.records:
        raise DataError(f"{label}: its split {split!r} is empty.")
    return rows
