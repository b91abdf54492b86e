"""The bytes of a data file: decompressed where its name says so, refused where it is no data."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dpo_bench.errors import DataError
from dpo_bench.resources import available_memory

BLOCK = 1 << 20
"""Bytes that are read at once."""
PARTS_OF_MEMORY = 8
"""Data may take one of them."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OTHER_ENCODING = "perhaps Latin-1 or Windows-1252: save the file as UTF-8"


def _open_zstandard(path: Path) -> Any:
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


DECOMPRESSORS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstandard,
}
"""How a compressed file is opened, by the last part of its name."""


def kind_of(path: Path) -> str:
    """The ending that says what a file holds, in small letters: ``.jsonl`` of ``train.jsonl.gz``.

    >>> kind_of(Path("data/train.jsonl.gz")), kind_of(Path("PAIRS.CSV")), kind_of(Path("notes"))
    ('.jsonl', '.csv', '')
    """
    return _uncompressed(path).suffix.lower()


def stem_of(path: Path) -> str:
    """A file's name without the endings of `kind_of`.

    >>> stem_of(Path("data/train.jsonl.gz")), stem_of(Path("pairs.v2.csv"))
    ('train', 'pairs.v2')
    """
    return _uncompressed(path).stem


@contextlib.contextmanager
def open_data(path: Path, label: str) -> Iterator[io.BufferedReader]:
    """A file's content as a binary stream, decompressed, without a byte order mark.

    Args:
        path: the file.
        label: how messages call it.

    Raises:
        DataError: a git-lfs pointer, UTF-16, or a damaged compressed file.
        OSError: the machine cannot read it.
    """
    refuse_pointer(path, label)
    opener = DECOMPRESSORS.get(path.suffix.lower())
    try:
        with opener(path) if opener else path.open("rb") as opened:
            stream: Any = io.BufferedReader(_Bounded(opened, label), BLOCK)
            start = stream.peek(len(BYTE_ORDER_MARK))
            if start.startswith(UTF_16) or b"\0" in start[:2]:
                raise DataError(
                    f"{label} is UTF-16, not UTF-8: save it as UTF-8, for example with "
                    f"`iconv -f UTF-16 -t UTF-8 {path.name}`."
                )
            if start.startswith(BYTE_ORDER_MARK):
                stream.read(len(BYTE_ORDER_MARK))
            yield stream
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as problem:
        if opener is None or getattr(problem, "errno", None) is not None:
            raise
        raise DataError(
            f"{label}: not a readable {path.suffix} file ({_first_line(problem)})."
        ) from None


def most_bytes() -> int:
    """Bytes that a file may hold, uncompressed.

    Read into Python's objects they are several times as many, and a small compressed file can hold
    any number.
    """
    return available_memory() // PARTS_OF_MEMORY


def require_fitting(size: int, most: int, label: str) -> None:
    """Refuse data that this machine's memory does not hold.

    Args:
        size: bytes, uncompressed.
        most: from `most_bytes`.
        label: how messages call it.

    Raises:
        DataError: they are too many.
    """
    if size > most:
        raise DataError(
            f"{label} holds more than {most / 2**30:.1f} GiB, uncompressed, an eighth of this "
            "machine's memory: take a part of it."
        )


class _Bounded(io.RawIOBase):
    """A stream that is not read beyond what memory holds."""

    def __init__(self, inner: Any, label: str) -> None:
        self.inner = inner
        self.label = label
        self.most = most_bytes()
        self.read_so_far = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """As the inner stream, up to the limit."""
        found: bytes = self.inner.read(len(buffer))
        self.read_so_far += len(found)
        require_fitting(self.read_so_far, self.most, self.label)
        buffer[: len(found)] = found
        return len(found)


def refuse_pointer(path: Path, label: str) -> None:
    """Raise DataError where git-lfs left a pointer in the place of the data."""
    with path.open("rb") as raw:
        if raw.read(len(LFS_POINTER)) == LFS_POINTER:
            raise DataError(
                f"{label} is a git-lfs pointer, not the data itself: run `git lfs pull` in the "
                "clone that it belongs to."
            )


def _uncompressed(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in DECOMPRESSORS else path


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
