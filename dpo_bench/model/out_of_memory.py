"""When a GPU's memory runs out in a pass: less at a time, and the pass again.

How work is cut into passes changes no result (but for rounding), so nothing is lost but time. Only
`torch.OutOfMemoryError` is taken for that; any other error of a GPU is none that a smaller pass
would mend.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from dpo_bench.data.batches import consecutive_passes
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.progress import Progress, quiet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dpo_bench.model.logprob_backends import LogprobBackend

    Sizes = NDArray[np.int64]

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Limit(Protocol):
    """How much is computed at once.

    Attributes:
        unit: what is counted, in the plural.
    """

    unit: str

    def now(self) -> int:
        """Most of it at present."""

    def lower(self, most: int) -> None:
        """From now on at most so much."""


class TokenLimit:
    """A backend's tokens of a forward pass."""

    unit = "tokens"

    def __init__(self, backend: LogprobBackend, wanted: int = 0) -> None:
        self.backend = backend
        self.wanted = wanted

    def now(self) -> int:
        """As wanted or as suits the device, and no more than was found to fit."""
        return self.backend.tokens_per_pass(self.wanted)

    def lower(self, most: int) -> None:
        """For all passes of this backend."""
        self.backend.most_tokens = most


def fitting(limit: Limit, sizes: Sizes, attempt: Callable[[], Result]) -> Result:
    """What an attempt gives, made again with half as much at once as often as memory runs out.

    Args:
        limit: is halved; the attempt asks it how much to take.
        sizes: of what the attempt computes, in the limit's unit; shape [text].
        attempt: starts anew each time: what a failed one has done must not count.

    Raises:
        EnvironmentProblem: not even the largest of them fits by itself.
    """
    while True:
        try:
            return attempt()
        except torch.OutOfMemoryError as error:
            reason = " ".join(str(error).split())
        # Out here the error is gone, and with it the frames that hold the pass's tensors.
        _halve(limit, sizes, reason)
        release()


def fitting_passes(
    limit: Limit, sizes: Sizes, compute: Callable[[range], Result]
) -> Iterator[tuple[range, Result]]:
    """Texts in passes of neighbors, each with what is computed of it; see `fitting`.

    A pass that does not fit is made again with fewer texts; what was computed before stays.

    Args:
        limit: most of a pass.
        sizes: of the texts, in the limit's unit; shape [text].
        compute: is given the places of a pass's texts.
    """
    start = 0

    def places() -> range:
        part = next(consecutive_passes(sizes[start:], limit.now()))
        return range(start, start + part.stop)

    while start < len(sizes):
        tried = places()
        part, found = fitting(
            limit, sizes[tried.start : tried.stop], lambda: (places(), compute(places()))
        )
        yield part, found
        start = part.stop


def in_passes(
    backend: LogprobBackend,
    sizes: Sizes,
    function: Callable[..., Result],
    *args: Any,
    part_of: Callable[[range], object] = lambda places: places,
    told: tuple[str, Progress] = ("", quiet),
) -> list[Result]:
    """What a function gives for each pass over texts, the passes dealt to all ranks.

    Where there are several, one that is out of memory fails: the others are in the midst of what
    they do together.

    Args:
        backend: its tokens of a pass are the limit.
        sizes: tokens of each text, shape [text].
        function: called with ``args`` and a pass's part; of a module's top level.
        args: what can be pickled, or is shared.
        part_of: what is handed over of the texts at some places.
        told: the phase, and who is told how many texts are done.
    """
    phase, progress = told
    if backend.ranks.alone:
        found = []
        for places, result in fitting_passes(
            TokenLimit(backend), sizes, lambda places: function(*args, part_of(places))
        ):
            found.append(result)
            progress(phase, places.stop, len(sizes))
        return found
    passes = list(consecutive_passes(sizes, backend.tokens_per_pass()))
    return backend.ranks.spread(
        function,
        [part_of(places) for places in passes],
        *args,
        after=lambda done: progress(phase, passes[done - 1].stop, len(sizes)),
    )


def release() -> None:
    """Give what is free of the GPU's memory back, so that pieces of other sizes can be had."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _halve(limit: Limit, sizes: Sizes, reason: str) -> None:
    largest, tried = int(sizes.max()), min(limit.now(), int(sizes.sum()))
    if tried <= largest:
        raise EnvironmentProblem(
            f"the memory is full with {largest:,} {limit.unit} in a pass, the least there can be "
            f"({reason[:160]}). What would fit: training.checkpointing=full, LoRA "
            "(training.lora), shorter texts (data.max_prompt_tokens, data.max_response_tokens), "
            "a smaller model, or a GPU that nothing else uses; sweep --dry-run shows the plan."
        )
    limit.lower(max(largest, tried // 2))
    log.info(
        "the memory was full with %s %s in a pass: from now on at most %s",
        f"{tried:,}",
        limit.unit,
        f"{limit.now():,}",
    )
