"""Bytes of tensors that are alive while something runs, and their peak, as an allocator sees it.

Counts real tensors and fake ones alike, so that a model's memory is measured without having any.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While this is open, the storages that operations make are counted until they are freed.

    What an operation takes for itself and frees again before it ends is not seen.

    Args:
        known: tensors that are there already and do not count.

    Attributes:
        now: bytes alive.
        peak: the most there were at any time.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._alive = {_key(tensor) for tensor in known}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count what it has made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self._alive:
            return
        storage = tensor.untyped_storage()
        self._alive.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind tensors, each counted once."""
    return sum({_key(one): one.untyped_storage().nbytes() for one in tensors}.values())


def _key(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata  # noqa: SLF001  # its address; a fake has no data_ptr
    return address
