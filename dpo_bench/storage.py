"""Durable files and tables: written under a temporary name, synced, renamed; never changed.

A reader sees a file or folder whole or not at all, also after a power cut or ``kill -9``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.errors import EnvironmentProblem

if TYPE_CHECKING:
    import pandas as pd

CACHE_VARIABLE = "DPO_BENCH_CACHE"


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
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file so that it appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
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


@contextlib.contextmanager
def published_folder(final: Path) -> Iterator[Path]:
    """Fill a folder that appears under its final name only when the block ends well.

    If ``final`` came to exist meanwhile (another process was quicker), that one stays: both were
    made from the same content.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            sync(file)
        temporary.chmod(0o755)
        try:
            temporary.rename(final)
        except OSError:  # renaming onto a folder that has content fails
            if not final.exists():
                raise
        sync(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    """Read a table and verify its checksums.

    Raises:
        EnvironmentProblem: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, page_checksum_verification=True).to_pandas()  # type: ignore[no-any-return]
    except (OSError, pa.ArrowException) as error:
        raise EnvironmentProblem(f"{path} is missing or damaged: {error}") from error


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV; text that a spreadsheet would run as a formula gets a leading quote."""
    safe = table.copy()
    for column in safe.select_dtypes(exclude="number").columns:
        safe[column] = safe[column].map(_inert)
    write_atomic(path, safe.to_csv(index=False, lineterminator="\n"))


def _inert(value: object) -> object:
    risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if risky else value
