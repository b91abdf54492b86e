"""Where preference data comes from: a file, a folder, or the hub."""

from __future__ import annotations

import re
from pathlib import Path

from dpo_bench.data.folders import folder_splits, has_heldout, read_folder
from dpo_bench.data.hub import hub_splits, read_hub
from dpo_bench.data.rows import Rows
from dpo_bench.data.splits import HELDOUT
from dpo_bench.data.table_files import is_data_file, read_file
from dpo_bench.errors import DataError, EnvironmentProblem

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def read_rows(source: str, split: str, subset: str | None = None) -> Rows:
    """Read preference data.

    Args:
        source: a file (.jsonl .json .parquet .csv .tsv), a folder, or a hub id. A path that exists
            wins over a hub id of the same name.
        split: which split of a folder or hub id; a file has none and is read whole.
        subset: a configuration of a hub id, or a folder within a folder.

    Raises:
        DataError: it does not exist, is empty, has no such split, or is no such table.
        EnvironmentProblem: it cannot be read, or the hub cannot be reached.
    """
    path = local_path(source)
    if path is None:
        return read_hub(source, split, subset)
    if path.is_dir():
        return read_folder(path, _label(source), split, subset)
    return read_file(path, source)


def source_splits(source: str, subset: str | None = None) -> tuple[str, ...]:
    """Names of the splits of a folder or hub id; none for a file."""
    path = local_path(source)
    if path is None:
        return hub_splits(source, subset)
    return folder_splits(path, _label(source), subset) if path.is_dir() else ()


def has_heldout_split(source: str, subset: str | None = None) -> bool:
    """Whether a folder or hub id has a split named ``heldout``; cheap for most folders."""
    path = local_path(source)
    if path is None:
        return HELDOUT in hub_splits(source, subset)
    return path.is_dir() and has_heldout(path, _label(source), subset)


def looks_like_source(name: str) -> bool:
    """Whether a name that may be a split or a source can only be a source."""
    return is_data_file(Path(name)) or any(mark in name for mark in "/\\~")


def local_path(source: str) -> Path | None:
    """The file or folder that a source names, or None for a hub id.

    Raises:
        DataError: it names neither: no such path, and no spelling of a hub id.
        EnvironmentProblem: the path may not be looked at.
    """
    path = Path(source).expanduser()
    try:
        if source and path.exists():
            return path
    except OSError as problem:
        raise EnvironmentProblem(f"cannot read {source}: {problem.strerror}.") from None
    if is_data_file(path) or not HUB_ID.fullmatch(source):
        raise DataError(f"no such file or folder: {source!r}.")
    return None


def _label(folder: str) -> str:
    """How messages call a folder."""
    return folder.rstrip("/") or folder
