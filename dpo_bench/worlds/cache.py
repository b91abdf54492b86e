"""Where the parts of a world are: shipped with the package, or made here and kept; one folder each.

Made on another processor, a part differs in the last bits of its weights, and by them in its texts.
So the usual parts ship, and are the same everywhere; ``python -m dpo_bench.worlds`` made them.

A kept folder's name holds a digest of its settings, of this package's source and of the libraries'
versions, so a change to any of them makes a new folder and nothing is ever overwritten. Two
processes may build the same part at once: the first to finish is kept and both use it.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpo_bench.cache import kept
from dpo_bench.errors import DamagedError
from dpo_bench.storage import (
    MANIFEST,
    damaged,
    digest,
    file_digest,
    open_sealed,
    write_json,
)

RECORD = "world.json"
"""In every folder: its settings, versions, measured facts, and the SHA-256 of its files, by which
the content is known wherever it is."""

SHIPPED = Path(__file__).parent / "shipped"
"""The parts that come with the package: folders as in the cache, their names without a digest."""

_afresh: ContextVar[bool] = ContextVar("afresh", default=False)
_LIBRARIES = ("torch", "transformers", "tokenizers")
_DIGITS = 20  # of the SHA-256, in folder names


def stream_seed(*path: str | int) -> int:
    """Seed of a named stream of random numbers; other names give unrelated streams."""
    return int(digest(list(path))[:15], 16)


def kept_folder(
    name: str, settings: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any]]
) -> Path:
    """Return the folder made from ``settings``, shipped or kept; make it where it is neither.

    Args:
        name: Begins the folder's name, for people.
        settings: Everything that the content depends on beside source, libraries and processor.
        fill: Writes the files into an empty folder and returns the measured facts.

    Returns:
        A complete folder, checked against its checksums.

    Raises:
        DamagedError: What ships with the package was changed.
        StorageError: The cache cannot be read or written.
    """
    if not _afresh.get() and _is_made_from(SHIPPED / name, settings):
        _check_shipped(SHIPPED / name)
        return SHIPPED / name
    made_from = {"settings": dict(settings), "source": source_digest(), "versions": versions()}

    def fill_and_record(folder: Path) -> None:
        facts = dict(fill(folder))
        files = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
        write_json(folder / RECORD, made_from | {"facts": facts, "files": files})

    return kept("worlds", f"{name}-{digest(made_from)[:_DIGITS]}", fill_and_record).folder


@contextlib.contextmanager
def built_afresh() -> Iterator[None]:
    """Leave aside, for a block, what ships with the package."""
    token = _afresh.set(True)
    try:
        yield
    finally:
        _afresh.reset(token)


def read_record(folder: Path) -> dict[str, Any]:
    """What a folder was made from, its measured facts, and the SHA-256 of its files."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text("utf-8"))
    return record


def read_facts(folder: Path) -> dict[str, Any]:
    """Measured facts of a folder."""
    facts: dict[str, Any] = read_record(folder)["facts"]
    return facts


def content_digest(folder: Path) -> str:
    """SHA-256 over the files of a folder, wherever it is."""
    return digest(read_record(folder)["files"])


@functools.cache
def source_digest() -> str:
    """SHA-256 over the source files of this package."""
    home = Path(__file__).parent
    return digest({file.name: file_digest(file) for file in sorted(home.glob("*.py"))})


@functools.cache
def versions() -> dict[str, str]:
    """Major and minor versions of the libraries that the text depends on."""
    return {library: ".".join(version(library).split(".")[:2]) for library in _LIBRARIES}


def _is_made_from(folder: Path, settings: Mapping[str, Any]) -> bool:
    if not folder.is_dir():
        return False
    try:
        return bool(read_record(folder)["settings"] == settings)
    except (OSError, ValueError, KeyError):
        return True  # damaged, which the check will say


def _check_shipped(folder: Path) -> None:
    try:
        wrong = open_sealed(folder).damaged()
    except (FileNotFoundError, DamagedError):
        wrong = [MANIFEST]
    if wrong:
        raise damaged(folder / wrong[0], remedy="install dpo_bench again")
