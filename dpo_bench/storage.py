"""Durable files, folders and tables: written under a temporary name, synced, renamed.

A reader sees a file or folder whole or not at all, also after a power cut or ``kill -9``, and
notices when it is not what was written:

- a **folder** that is published has a ``manifest.json``, written last: the SHA-256 of each of its
  files, and of itself (`published_folder`, `open_sealed`);
- a **record**, a JSON object that stands alone, carries its own SHA-256 (`write_record`);
- files that are written anew from time to time have theirs in `dpo_bench.ledger`.

A temporary name is locked by whoever writes it, so that another can tell what a killed process has
left behind (`remove_leftovers`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.disk import READ_DAMAGE, disk_problem, flock, storage_error
from dpo_bench.errors import DamagedError

if TYPE_CHECKING:
    import pandas as pd

CACHE_VARIABLE = "DPO_BENCH_CACHE"
MANIFEST = "manifest.json"
"""In every published folder: what is known of it, and the SHA-256 of each of its files."""
DIGEST, ARTEFACTS = "digest", "artefacts"
"""Keys of records: the SHA-256 of all the rest; of manifests: SHA-256 by file."""
OLDER = {
    "experiment.json": (
        *("experiment", "conditions", "command", "versions", "platform", "hashes", "trials"),
        *("data", "computing", "notes", "sought", "plan"),
    ),
    "search.json": ("trials", "seeds", "series", "looks", "end"),
    MANIFEST: (
        *("trial", "status", "loss", "strength", "beta", "hyperparameters", "seed", "seconds"),
        *("error", "cause", "traceback", "artefacts", "training", "stopped"),
    ),
}
"""Keys of records when they had no digest, by the file's name."""
AGAIN = "run the sweep again: only what is damaged is done again"
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}")
_ABANDONED_SECONDS = 24 * 3600.0
"""Age of a temporary name that is certainly nobody's, where locks do not tell."""


def cache_root() -> Path:
    """Where worlds, converted models and reference log-probs are kept between sweeps.

    ``$DPO_BENCH_CACHE``, else ``$XDG_CACHE_HOME/dpo_bench``, else ``~/.cache/dpo_bench``.
    Everything in it is keyed by content and can be deleted at any time.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dpo_bench"


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, no NaN (raises ValueError)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON-able value's canonical spelling."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes. An OSError names the file."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


_known: dict[tuple[str, int, int, int, int], str] = {}


def known_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read once per process and change.

    A file counts as unchanged when its inode, its size and both of its times are the same.
    """
    state = path.stat()
    key = (str(path), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if key not in _known:
        _known[key] = file_digest(path)
    return _known[key]


def sync(path: Path) -> None:
    """Flush a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link without what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file so that it appears complete or not at all.

    Raises:
        StorageError: the disk is full, fails or may not be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        _write(path, data)
    except OSError as error:
        raise storage_error(path, error, cache_root()) from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            flock(stream.fileno())
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. NaN raises ValueError: use None."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_atomic(path, text + "\n")


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its own SHA-256, atomically; see `read_record`."""
    plain = json.loads(canonical_json(value))  # as it will be read: keys are texts
    write_json(path, {**plain, DIGEST: digest(plain)})


def read_record(path: Path, older: Collection[str] = ()) -> dict[str, Any]:
    """Read what `write_record` wrote, without its digest.

    Args:
        path: of the file.
        older: the keys of such a record before records had digests, where `OLDER` does not know
            them by the file's name. One that has other keys and no digest was made so by damage.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not as it was written.
        StorageError: it may not be read.
    """
    try:
        value = json.loads(read_bytes(path).decode("utf-8"))
    except ValueError as error:
        raise damaged(path, f" ({error})") from error
    if not isinstance(value, dict):
        raise damaged(path)
    older = older or OLDER.get(path.name, ())
    if DIGEST not in value and older and set(value) <= set(older):
        return value
    try:
        is_whole = value.pop(DIGEST, None) == digest(value)
    except ValueError:  # NaN, half a character: neither is ever written
        is_whole = False
    if not is_whole:
        raise damaged(path)
    return value


def has_digest(path: Path) -> bool:
    """Whether a record that can be read carries its SHA-256; those of older versions do not."""
    return DIGEST in json.loads(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: the disk cannot give them.
        StorageError: they may not be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        if error.errno in READ_DAMAGE:
            raise damaged(path, f" ({error.strerror})") from error
        raise storage_error(path, error, cache_root()) from error


def damaged(path: Path, why: str = "", remedy: str = AGAIN) -> DamagedError:
    """The error of a file that is missing or not as it was written."""
    return DamagedError(f"{path} is missing or damaged{why}{remedy and ': '}{remedy}.")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A published folder, whose files are checked when they are read.

    Attributes:
        folder: where it is.
        fields: what its manifest says beside the files.
        artefacts: SHA-256 of each file, by its path in the folder; None: it was written before
            folders had manifests, and nothing can be checked.
    """

    folder: Path
    fields: Mapping[str, Any]
    artefacts: Mapping[str, str] | None

    def has(self, name: str) -> bool:
        """Whether there is, or was, such a file."""
        if self.artefacts is None:
            return (self.folder / name).is_file()
        return name in self.artefacts

    def read(self, name: str) -> bytes:
        """The bytes of a file, just as they were written.

        Raises:
            DamagedError: it is missing or damaged.
        """
        path = self.folder / name
        try:
            content = read_bytes(path)
        except FileNotFoundError as error:
            raise damaged(path) from error
        if self.artefacts is not None:
            sha = hashlib.sha256(content).hexdigest()
            if self.artefacts.get(name) != sha:
                raise damaged(path)
        return content

    def read_json(self, name: str) -> dict[str, Any]:
        """A file that holds a JSON object; likewise."""
        try:
            value = json.loads(self.read(name).decode("utf-8"))
        except ValueError as error:
            raise damaged(self.folder / name, f" ({error})") from error
        if not isinstance(value, dict):
            raise damaged(self.folder / name, " (not an object)")
        return value

    def read_parquet(self, name: str) -> pd.DataFrame:
        """A table; likewise."""
        return parse_parquet(self.folder / name, self.read(name))

    def damaged(self) -> list[str]:
        """Files that are missing, unreadable, links, or not as they were written.

        Raises:
            StorageError: one may not be read.
        """
        artefacts = self.artefacts or {}
        return [name for name, sha in artefacts.items() if not is_whole(self.folder / name, sha)]


def is_whole(path: Path, sha: str) -> bool:
    """Whether a file is there, no link, and has this SHA-256; see `known_digest`."""
    try:
        return path.is_file() and not path.is_symlink() and known_digest(path) == sha
    except OSError as error:
        if error.errno in READ_DAMAGE or isinstance(error, FileNotFoundError):
            return False
        raise storage_error(path, error, cache_root()) from error


def seal(folder: Path, fields: Mapping[str, Any] | None = None) -> None:
    """Write a folder's manifest, last: its fields, and the SHA-256 of every other file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files += [path for path in folder.rglob(f"*/{MANIFEST}") if path.parent != folder]
    artefacts = {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(files)}
    write_record(folder / MANIFEST, {**(fields or {}), ARTEFACTS: artefacts})


def open_sealed(folder: Path) -> Sealed:
    """A folder that `published_folder` made; its manifest is checked, its files are not yet.

    Raises:
        FileNotFoundError: it has no manifest.
        DamagedError: its manifest is not as it was written.
    """
    fields = read_record(folder / MANIFEST)
    artefacts = fields.pop(ARTEFACTS, None)
    if not isinstance(artefacts, dict):
        raise damaged(folder / MANIFEST)
    return Sealed(folder, fields, artefacts)


def open_folder(folder: Path) -> Sealed:
    """The same of a folder that may have been written before folders had manifests.

    Raises:
        DamagedError: its manifest is not as it was written.
    """
    try:
        return open_sealed(folder)
    except FileNotFoundError:
        return Sealed(folder, {}, None)


def is_published(folder: Path) -> bool:
    """Whether a folder is there and whole."""
    try:
        return not folder.is_symlink() and not open_sealed(folder).damaged()
    except (FileNotFoundError, DamagedError):
        return False


@contextlib.contextmanager
def published_folder(final: Path) -> Iterator[Path]:
    """Fill a folder that appears under its final name only when the block ends well.

    It gets its manifest at the end, if the block wrote none. If ``final`` came to exist meanwhile
    and is whole (another process was quicker), that one stays: both were made from the same
    content. What is there and is not whole is replaced.

    Raises:
        StorageError: the disk is full, fails or may not be written.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    except OSError as error:
        raise storage_error(final, error, cache_root()) from error
    try:
        with _held(temporary):
            yield temporary
            if not (temporary / MANIFEST).exists():
                seal(temporary)
            for file in temporary.rglob("*"):
                sync(file)
            sync(temporary)
            temporary.chmod(0o755)
            _take_place(temporary, final)
            sync(final.parent)
    except Exception as error:
        if problem := disk_problem(final, error, cache_root()):
            raise problem from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(new: Path, final: Path) -> None:
    """Rename a whole folder to its final name, unless a whole one is there."""
    try:
        new.rename(final)
    except OSError:  # renaming onto a file, or onto a folder that has content, fails
        if not os.path.lexists(final):
            raise
    else:
        return
    if is_published(final):
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        final.rename(aside / final.name)
        try:
            new.rename(final)
        except OSError:  # another process did the same, and was quicker
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """While this is open, others see that somebody is at a temporary name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flock(descriptor)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(
    folder: Path, names: Collection[str] | None = None, *, older_than: float = 0.0
) -> list[Path]:
    """Remove what killed processes have left under temporary names in a folder.

    Args:
        folder: is looked into, not below; it may be missing.
        names: final names that count; None: all.
        older_than: seconds; younger ones stay.

    Returns:
        what was removed.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    removed = []
    for path in found:
        match = _TEMPORARY.fullmatch(path.name)
        if match and (names is None or match[1] in names) and _is_abandoned(path, older_than):
            remove(path)
            removed.append(path)
    return removed


def _is_abandoned(path: Path, older_than: float) -> bool:
    """Whether nobody is at a temporary name any more."""
    try:
        age = time.time() - path.lstat().st_mtime
        if age < older_than or path.is_symlink():
            return False
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        is_free = flock(descriptor)
    finally:
        os.close(descriptor)
    return age > _ABANDONED_SECONDS if is_free is None else is_free


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, each page with its checksum."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_pandas(table, preserve_index=False), sink, write_page_checksum=True
    )
    write_atomic(path, sink.getvalue())


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a table and verify its pages' checksums.

    Raises:
        DamagedError: the file is missing or damaged.
    """
    try:
        return parse_parquet(path, read_bytes(path), remedy="")
    except FileNotFoundError as error:
        raise damaged(path, remedy="") from error


def parse_parquet(path: Path, content: bytes, remedy: str = AGAIN) -> pd.DataFrame:
    """A table from a file's bytes; its pages' checksums are verified.

    Raises:
        DamagedError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pa.BufferReader(content)
        return pq.read_table(source, page_checksum_verification=True).to_pandas()  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        # Damage in a footer reaches into pandas' own description of the columns.
        raise damaged(path, f" ({' '.join(str(error).split())[:200]})", remedy) from error


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV; text that a spreadsheet would run as a formula gets a leading quote."""
    safe = table.copy()
    for column in safe.select_dtypes(exclude="number").columns:
        safe[column] = safe[column].map(_inert)
    write_atomic(path, safe.to_csv(index=False, lineterminator="\n"))


def _inert(value: object) -> object:
    risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if risky else value
