"""Where the parts of a world are kept: one folder each, named by the content they are made from.

A folder's name holds a digest of its settings, of this package's source and of the libraries'
versions, so a change to any of them makes a new folder and nothing is ever overwritten. Two
processes may build the same part at once: the first to finish is kept and both use it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.storage import (
    CACHE_VARIABLE,
    cache_root,
    digest,
    file_digest,
    published_folder,
    write_json,
)

RECORD = "world.json"
"""In every folder: its settings, versions, measured facts, and the SHA-256 of its files."""

_LIBRARIES = ("torch", "transformers", "tokenizers")
_DIGITS = 20  # of the SHA-256, in folder names


def stream_seed(*path: str | int) -> int:
    """Seed of a named stream of random numbers; other names give unrelated streams."""
    return int(digest(list(path))[:15], 16)


def kept_folder(
    name: str, settings: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any]]
) -> Path:
    """Return the folder made from ``settings``, making it first where it is missing.

    Args:
        name: Begins the folder's name, for people.
        settings: Everything that the content depends on beside source and libraries.
        fill: Writes the files into an empty folder and returns the measured facts.

    Returns:
        A complete folder, checked against its checksums.

    Raises:
        EnvironmentProblem: The cache cannot be written, or a file in it was damaged.
    """
    made_from = {"settings": dict(settings), "source": source_digest(), "versions": versions()}
    final = cache_root() / "worlds" / f"{name}-{digest(made_from)[:_DIGITS]}"
    if not final.is_dir():
        try:
            with published_folder(final) as folder:
                facts = dict(fill(folder))
                for file in folder.iterdir():
                    file.chmod(0o644)  # safetensors writes files that only their owner can read
                files = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
                write_json(folder / RECORD, made_from | {"facts": facts, "files": files})
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot keep the embedded world in {final.parent}: {error.strerror or error}; "
                f"set {CACHE_VARIABLE} to a folder that can be written"
            ) from error
    _check(final)
    return final


def read_facts(folder: Path) -> dict[str, Any]:
    """Measured facts of a kept folder."""
    facts: dict[str, Any] = json.loads((folder / RECORD).read_text("utf-8"))["facts"]
    return facts


@functools.cache
def source_digest() -> str:
    """SHA-256 over the source files of this package."""
    home = Path(__file__).parent
    return digest({file.name: file_digest(file) for file in sorted(home.glob("*.py"))})


@functools.cache
def versions() -> dict[str, str]:
    """Major and minor versions of the libraries that the text depends on."""
    return {library: ".".join(version(library).split(".")[:2]) for library in _LIBRARIES}


def _check(folder: Path) -> None:
    try:
        files = json.loads((folder / RECORD).read_text("utf-8"))["files"]
        damaged = [name for name, sha in files.items() if file_digest(folder / name) != sha]
    except (OSError, ValueError, KeyError) as error:
        raise EnvironmentProblem(
            f"{folder}: {RECORD} or a file it lists cannot be read ({error}); "
            "delete this folder and run again"
        ) from error
    if damaged:
        raise EnvironmentProblem(
            f"{folder}: {damaged[0]} was changed or damaged; delete this folder and run again"
        )
