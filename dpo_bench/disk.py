"""What a disk can do to a program: errors told in a line, and locks that tell who is at a file."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpo_bench.errors import DpoBenchError, StorageError

fcntl: Any
try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None

READ_DAMAGE = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EILSEQ})
"""Errors of reading that mean that what was written is lost."""
_FAULTS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM),
        *(errno.EFBIG, errno.ENODEV, errno.ENXIO, errno.ESTALE),
    }
)
"""Errors of a disk, and none of the program that writes to it."""
_RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers tell an error of the system."""


def flock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool | None:
    """Lock an open file or folder for as long as it is open.

    Args:
        descriptor: of the open file.
        shared: others may hold it as well, if they share it.
        wait: until nobody else holds it.

    Returns:
        whether it is locked now; None where this system or file system has no such locks.
    """
    if fcntl is None:
        return None
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def storage_error(path: Path, error: OSError, cache: Path) -> StorageError:
    """An error of the system as one line: what failed, where, what to do.

    Args:
        path: what was to be written or read, where the error names nothing.
        error: of the system.
        cache: folder of the cache.
    """
    where = Path(str(error.filename)) if error.filename else path
    remedy = (
        f"this is in the cache, {cache}; DPO_BENCH_CACHE puts it elsewhere"
        if _is_below(where, cache)
        else "make room, or give another --out; what is finished stays"
    )
    return StorageError(f"{where}: {error.strerror or error}; {remedy}.")


def disk_problem(path: Path, error: BaseException, cache: Path) -> StorageError | None:
    """The disk's fault behind an error that any library raised while it wrote; None: it is none.

    Args:
        path: what was to be written.
        error: as it was raised.
        cache: folder of the cache.
    """
    if isinstance(error, DpoBenchError):
        return None  # it says already what is wrong
    for one in _behind(error):
        if isinstance(one, StorageError):
            return one
        if isinstance(one, OSError) and one.errno in _FAULTS:
            return storage_error(path, one, cache)
        told = _RUST.search(str(one))
        if told and int(told[1]) in _FAULTS:
            reason = str(one).rpartition("(os error")[0].rpartition(":")[2].strip()
            return storage_error(path, OSError(int(told[1]), reason), cache)
    return None


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error, those that it was raised from, and those of the ranks of a distributed write."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting.append(one.__cause__)
        failures = getattr(one, "failures", None)
        if isinstance(failures, dict):
            waiting += [each[0] for each in failures.values() if isinstance(each, tuple)]


def _is_below(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute())
