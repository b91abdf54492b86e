"""A model that is in a GPU's memory only while it is used, and in the host's otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class HostCopy:
    """A frozen model's weights in the host's memory, from which they come back as they were.

    The model's tensors stay the same objects, so ties and whoever holds them stay right; only where
    their values are changes.

    Args:
        model: its weights do not change any more; is left in the host's memory.
        device: where it is used.
    """

    def __init__(self, model: Any, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        for one in (*model.parameters(), *model.buffers()):
            if id(one) not in self._tensors:
                self._tensors[id(one)] = (one, _pinned(one.detach(), self.device))
        self._open = 0
        self._leave()

    @contextlib.contextmanager
    def there(self) -> Iterator[None]:
        """While this is open, also more than once, the model is on its device."""
        if not self._open:
            for one, kept in self._tensors.values():
                one.data = kept.to(self.device, non_blocking=True, copy=True)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._leave()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function while the model is on its device."""
        with self.there():
            return function(*arguments)

    def _leave(self) -> None:
        for one, kept in self._tensors.values():
            one.data = kept


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    """A copy in the host's memory, from where a GPU reads at full speed."""
    copy = torch.empty(
        values.shape, dtype=values.dtype, device="cpu", pin_memory=device.type == "cuda"
    )
    return copy.copy_(values)
