"""Whether the lower layers that models have in common can be computed apart, found by trying it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dpo_bench.model.choose_backend import equal_but_for_rounding
from dpo_bench.model.logprobs import token_logps
from dpo_bench.model.lower_layers import LowerLayers

if TYPE_CHECKING:
    from dpo_bench.data.tokenized import TokenizedPairs
    from dpo_bench.model.logprob_backends import LogprobBackend

log = logging.getLogger(__name__)

PROBED_PAIRS = 4
"""Pairs by which it is tried, the shortest: so it costs little of a worker's time."""


def share_lower_layers(
    backends: Sequence[LogprobBackend], count: int, room: int, pairs: TokenizedPairs
) -> LowerLayers | None:
    """Let models that have their lower layers in common compute these once for each pair.

    Where that cannot be done, or would change more than rounding, they are left as they are, and
    the log says why.

    Args:
        backends: the policy, and the reference where it has the same lower layers; are changed.
        count: how many layers are frozen, the lowest ones.
        room: bytes of the host's memory that may be taken; without any, states are computed each
            time and have the same bits.
        pairs: of the data; it is tried on a few of them.

    Returns:
        what has the states; None where the models are left as they are.
    """
    lower, reason = LowerLayers(count, room), _hindrance(backends)
    if not reason:
        try:
            reason = _difference(lower, backends, pairs)
        except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
    for backend in backends:
        backend.lower = None if reason else lower
    name = type(backends[0].model).__name__
    if reason:
        log.info("the lower %d layers of %s are computed in each pass: %s", count, name, reason)
        return None
    log.info(
        "the lower %d layers of %s are computed once for the trials of a worker: %.2f GiB have room"
        " for %.0f%% of the pairs",
        count,
        name,
        room / 2**30,
        100 * lower.share(pairs),
    )
    return lower


def _hindrance(backends: Sequence[LogprobBackend]) -> str:
    """Why lower layers are not to be computed apart, before anything is tried; else empty.

    Several processes make passes that FSDP2 parts by layers, each of which must run on all.
    """
    if not all(backend.packs for backend in backends):
        return "its texts are padded"
    if not all(backend.ranks.alone for backend in backends):
        return "several processes hold it together"
    return ""


def _difference(
    lower: LowerLayers, backends: Sequence[LogprobBackend], pairs: TokenizedPairs
) -> str:
    """What would be other than in passes of all layers, but for rounding; empty for nothing."""
    numbers: list[int] = pairs.sizes.argsort(kind="stable")[:PROBED_PAIRS].tolist()
    with torch.no_grad():
        for backend in backends:
            backend.lower = None
            expected = token_logps(backend, backend.batch(pairs, numbers))
            backend.lower = lower
            found = token_logps(backend, backend.batch(pairs, numbers))
            if not equal_but_for_rounding(found, expected):
                return "the upper ones read more than their hidden states"
        first, alone, others = backends[0], numbers[:1], numbers[1:]
        together = lower.fresh(first, pairs, numbers)
        apart = lower.fresh(first, pairs, alone) | lower.fresh(first, pairs, others)
    if not all(torch.equal(apart[number], together[number]) for number in numbers):
        return "in other company a pair's states have other bits"
    return ""
