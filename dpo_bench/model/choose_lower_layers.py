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

PROBED_PAIRS = 8
"""Pairs by which it is tried whether their states are the same in any company."""


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
        pairs: of the data; it is tried on the first ones.

    Returns:
        what has the states; None where the models are left as they are.
    """
    lower, reason = LowerLayers(count, room), _hindrance(backends)
    if not reason:
        try:
            reason = next(filter(None, (_difference(lower, one, pairs) for one in backends)), "")
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


def _difference(lower: LowerLayers, backend: LogprobBackend, pairs: TokenizedPairs) -> str:
    """What would be other than in a pass of all layers, but for its rounding; empty for nothing."""
    numbers = range(min(PROBED_PAIRS, len(pairs)))
    with torch.no_grad():
        backend.lower = None
        expected = token_logps(backend, backend.batch(pairs, numbers))
        backend.lower = lower
        for company in (numbers[:1], numbers[1:4], numbers[4:]):
            if len(company):
                token_logps(backend, backend.batch(pairs, company))
        pack = lower.pack(pairs, numbers, backend.fixed_tokens).to(backend.device)
        found = token_logps(backend, pack)
        states = lower.states(backend, pack)[: int(pairs.sizes[numbers].sum())]
        fresh = lower.fresh(backend, pairs, numbers)
        anew = torch.cat([fresh[number] for number in numbers])
    if not equal_but_for_rounding(found, expected):
        return "the upper ones read more than their hidden states"
    return "" if torch.equal(states, anew) else "in other company a pair's states have other bits"
