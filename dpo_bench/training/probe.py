"""A pass that is made to see what it takes: the plan's word for a GPU, checked on the GPU."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from dpo_bench.model.logprobs import token_logps
from dpo_bench.model.out_of_memory import TokenLimit, fitting, release
from dpo_bench.training.memory import MemoryPlan

if TYPE_CHECKING:
    from dpo_bench.data.tokenized import TokenizedPairs
    from dpo_bench.model.logprob_backends import LogprobBackend

Meter = Callable[[Callable[[], None]], int]
"""Does something and gives the most bytes that were alive at once meanwhile, beyond what was."""
log = logging.getLogger(__name__)


def gpu_bytes(work: Callable[[], None]) -> int:
    """A meter: what torch's allocator handed out on this process's GPU."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def confirmed_tokens(
    plan: MemoryPlan, policy: LogprobBackend, pairs: TokenizedPairs, meter: Meter = gpu_bytes
) -> int:
    """Tokens of a pass that fit, by a pass of the longest pairs there and back.

    Args:
        plan: says how many should, and what lies beside a pass.
        policy: as it is trained; before any trial has begun.
        pairs: the training pairs.
        meter: measures.

    Raises:
        EnvironmentProblem: not even the longest pair fits.
    """
    planned = plan.tokens if plan.passing is not None else plan.setting.longest
    limit = TokenLimit(policy, planned)
    taken = 0

    def attempt() -> int:
        nonlocal taken
        indices = longest_pairs(pairs, limit.now())
        taken = int(pairs.sizes[indices].sum())
        return meter(lambda: _there_and_back(policy, pairs, indices))

    try:
        with _gradients_there(policy):
            measured = fitting(limit, pairs.sizes[longest_pairs(pairs, planned)], attempt)
    finally:
        release()
    tokens = tokens_by_measure(plan, limit.now(), taken, measured)
    log.info(
        "a pass of %s tokens takes %.1f GiB: training passes have up to %s tokens",
        f"{taken:,}",
        measured / 2**30,
        f"{tokens:,}",
    )
    return tokens


def tokens_by_measure(plan: MemoryPlan, planned: int, taken: int, measured: int) -> int:
    """Tokens that fit when a pass of ``taken`` tokens took ``measured`` bytes.

    As many as planned where that agrees with the measure; else by the measure's bytes a token,
    which are too many rather than too few, as they hold what does not grow with the tokens.
    """
    free = plan.setting.usable - plan.resident
    by_measure = int(taken * free / max(1, measured))
    if plan.passing is None:
        return max(plan.setting.longest, min(plan.most_tokens, by_measure))
    return max(plan.setting.longest, min(planned, by_measure)) if measured > free else planned


def longest_pairs(pairs: TokenizedPairs, tokens: int) -> list[int]:
    """The longest pairs that make a pass of so many tokens together, one at least."""
    order = np.argsort(-pairs.sizes, kind="stable")
    count = int((pairs.sizes[order].cumsum() <= tokens).sum())
    chosen: list[int] = order[: max(1, count)].tolist()
    return chosen


def _there_and_back(policy: LogprobBackend, pairs: TokenizedPairs, indices: list[int]) -> None:
    token_logps(policy, policy.batch(pairs, indices)).sum().backward()


@contextlib.contextmanager
def _gradients_there(policy: LogprobBackend) -> Iterator[None]:
    """While this is open trained weights have gradients, as from the second pass of a step on."""
    trained = [one for one in policy.optimized().values() if one.requires_grad]
    for one in trained:
        one.grad = torch.zeros_like(one)
    try:
        yield
    finally:
        for one in trained:
            one.grad = None
