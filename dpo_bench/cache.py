"""What is kept between sweeps, by content: each entry checked when it is taken, and made anew.

An entry is a published folder (`dpo_bench.storage`) below a folder of its kind. Whoever takes one
holds a lock on its manifest for as long as the process lives, so that `prune` leaves it alone.
Answers of judges and digests of large files are records, one file each.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dpo_bench.disk import flock
from dpo_bench.errors import DamagedError, StorageError
from dpo_bench.storage import (
    MANIFEST,
    Sealed,
    cache_root,
    open_sealed,
    published_folder,
    read_record,
    remove,
    remove_leftovers,
)

log = logging.getLogger(__name__)

KINDS = {
    "worlds": "models and data of the embedded world",
    "pairs": "tokenized preference pairs",
    "reference-logps": "the reference's log-probs",
    "reference-evaluations": "the reference's responses and their rewards",
    "mapped-weights": "frozen weights that workers share",
    "converted": "models read from GGUF files",
    "merged": "models with an adapter merged in",
    "judged": "answers of judges",
    "digests": "digests of large files",
}
RECORDS = ("judged", "digests")
"""Kinds whose entries are single files."""
OLDER_RECORDS = ("reply", "input_tokens", "output_tokens", "own_temperature")
"""Keys of a judge's answer, which older versions kept without a digest."""
PASSING = "served-adapters"
"""Adapters that a server is reading: there for minutes."""
DAY = 24 * 3600.0

_holding: dict[Path, int] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in the cache.

    Attributes:
        kind: see `KINDS`.
        path: folder or file.
        size: bytes.
        used: when it was last taken, or made; seconds since the epoch.
    """

    kind: str
    path: Path
    size: int
    used: float


def kept(kind: str, name: str, fill: Callable[[Path], object]) -> Sealed:
    """An entry that is whole: made where it is missing, and made anew where it is damaged.

    Args:
        kind: see `KINDS`.
        name: digest of everything that the content depends on.
        fill: writes the files into an empty folder.

    Raises:
        StorageError: the cache cannot be read or written.
    """
    final = cache_root() / kind / name
    found = _take(final, tell=True)
    if found is not None:
        return found
    with published_folder(final) as folder:
        fill(folder)
        for file in folder.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # safetensors writes files that only their owner can read
    made = _take(final, tell=False)
    if made is None:
        raise StorageError(
            f"{final} was damaged as it was written: the disk loses what is given to it; "
            "DPO_BENCH_CACHE puts the cache elsewhere."
        )
    return made


def _take(final: Path, *, tell: bool) -> Sealed | None:
    """An entry with a lock on it, if it is whole; tells why it is not."""
    hold(final)
    try:
        found = open_sealed(final)
        wrong = found.damaged()
    except FileNotFoundError:
        if tell and final.exists():
            _tell(final, "has no manifest (an older version wrote none)")
        return None
    except DamagedError:
        wrong = [MANIFEST]
    if wrong:
        if tell:
            _tell(final, f"is damaged ({', '.join(wrong)})")
        return None
    with contextlib.suppress(OSError):  # read-only: then it is as old as it was
        os.utime(final)
    return found


def _tell(final: Path, what: str) -> None:
    name = f"{final.parent.name}/{final.name[:40]}"
    log.warning("%s in the cache %s: made anew", name, what, extra={"passing": True})


def hold(entry: Path) -> None:
    """Keep an entry from being pruned while this process lives, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(entry / MANIFEST, os.O_RDONLY)
        flock(descriptor, shared=True)
        if entry in _holding:
            os.close(_holding[entry])
        _holding[entry] = descriptor


def release_all() -> None:
    """Hold nothing any more."""
    for descriptor in _holding.values():
        os.close(descriptor)
    _holding.clear()


def entries() -> Iterator[Entry]:
    """All entries, kind by kind."""
    for kind in KINDS:
        folder = cache_root() / kind
        pattern = "**/*.json" if kind in RECORDS else "*"
        for path in sorted(folder.glob(pattern)):
            if not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                    yield Entry(kind, path, _size(path), path.stat().st_mtime)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def damage(entry: Entry) -> list[str]:
    """What is wrong with an entry: its damaged files; empty where it is whole.

    Raises:
        StorageError: it may not be read.
    """
    try:
        if entry.kind in RECORDS:
            read_record(entry.path, OLDER_RECORDS)
            return []
        return open_sealed(entry.path).damaged()
    except FileNotFoundError:
        return [MANIFEST] if entry.path.exists() else []
    except DamagedError:
        return [entry.path.name if entry.kind in RECORDS else MANIFEST]


def prune(entry: Entry) -> bool:
    """Remove an entry, unless a running process uses it; returns whether it is gone.

    Raises:
        OSError: it cannot be removed.
    """
    if entry.kind in RECORDS or not (entry.path / MANIFEST).is_file():
        remove(entry.path)
        return True
    descriptor = os.open(entry.path / MANIFEST, os.O_RDONLY)
    try:
        if flock(descriptor) is False:
            return False
        # Out of the way at once: a process that looks for it now makes it anew.
        aside = Path(tempfile.mkdtemp(prefix=f".{entry.path.name}.", dir=entry.path.parent))
        entry.path.rename(aside / entry.path.name)
        remove(aside)
    finally:
        os.close(descriptor)
    return True


def remove_old_leftovers() -> list[Path]:
    """Remove what processes that were killed over a day ago have left behind."""
    removed = []
    for kind in KINDS:
        removed += remove_leftovers(cache_root() / kind, older_than=DAY)
    for path in (cache_root() / PASSING).glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > DAY:
                remove(path)
                removed.append(path)
    return removed
