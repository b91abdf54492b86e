"""What some losses need of each response token beyond its log-prob, from the same forward pass.

Like log-probs, everything is computed a few thousand tokens at a time from the states of a path.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax
from torch.utils.checkpoint import checkpoint

from dpo_bench.model.logprobs import (
    LogprobBackend,
    in_whole_slices,
    sum_by_row,
    token_logps,
    tokens_at_once,
)

if TYPE_CHECKING:
    from dpo_bench.model.logprob_backends import AnyBatch


@dataclass(frozen=True, slots=True)
class TokenValues:
    """Values of every response token, row after row; each of shape [token], in nats.

    Attributes:
        logp: the model's log-prob of the token, with gradient.
        confidence: ``logp`` - log sum_v p(v)^2: against a token that the model would draw itself;
            detached. None when not asked for.
        kl: KL(reference || model) of the next-token distributions, with gradient. None when no
            reference was given.
    """

    logp: Tensor
    confidence: Tensor | None = None
    kl: Tensor | None = None


def token_values(
    backend: LogprobBackend,
    batch: AnyBatch,
    *,
    confidence: bool = False,
    reference: LogprobBackend | None = None,
) -> TokenValues:
    """Log-probs of response tokens and, from the same logits, what else is asked for.

    Args:
        backend: the model with its kernel path.
        batch: padded sequences on the path's device.
        confidence: whether to compute it.
        reference: the model whose KL from ``path`` is wanted; of the same vocabulary.
    """
    if not confidence and reference is None:
        return TokenValues(token_logps(backend, batch))
    wanted = (backend, batch, confidence, reference)
    if reference is None:
        columns = list(backend.run(_columns, *wanted))
    else:
        columns = list(backend.run(reference.run, _columns, *wanted))
    logp = columns.pop(0)
    return TokenValues(
        logp,
        columns.pop(0).detach() if confidence else None,
        columns.pop(0) if reference is not None else None,
    )


def _columns(
    backend: LogprobBackend,
    batch: AnyBatch,
    confidence: bool,
    reference: LogprobBackend | None,
) -> tuple[Tensor, ...]:
    """Log-probs, then confidence and KL where they are wanted; each of shape [token]."""
    states = backend.states(batch)
    theirs = None
    if reference is not None:
        with torch.no_grad():
            theirs = reference.states(batch)
    states, target = in_whole_slices(backend, states, batch.target)
    if theirs is not None:
        theirs, _ = in_whole_slices(backend, theirs, batch.target)
    tokens = len(target)
    # Two distributions take twice the memory; but slices of another size have other bits in bf16.
    step = tokens_at_once(backend) if backend.fills else max(1, tokens_at_once(backend) // 2)
    parts = []
    for start in range(0, max(tokens, 1), step):
        part = slice(start, start + step)
        other = None if theirs is None else theirs[part]
        values = functools.partial(
            _values, backend, confidence=confidence, reference=reference, other=other
        )
        # In the backward pass the logits of each slice are computed again rather than all kept.
        arguments = (states[part], target[part])
        parts.append(
            checkpoint(values, *arguments, use_reentrant=False, preserve_rng_state=False)
            if tokens > step
            else values(*arguments)
        )
    return tuple(torch.cat(parts, dim=1)[:, : len(batch.target)])


def _values(
    backend: LogprobBackend,
    states: Tensor,
    target: Tensor,
    *,
    confidence: bool,
    reference: LogprobBackend | None,
    other: Tensor | None,
) -> Tensor:
    """Rows of values of some tokens, shape [1 to 3, token]."""
    logits = backend.logits(states)
    rows = [-cross_entropy(logits, target, reduction="none")]
    if confidence:
        with torch.no_grad():
            collision = (2 * log_softmax(logits, -1)).logsumexp(-1)
            rows.append(rows[0].detach() - collision)
    if reference is not None and other is not None:
        rows.append(_kl(reference.logits(other).detach(), logits))
    return torch.stack(rows)


def _kl(reference: Tensor, policy: Tensor) -> Tensor:
    """KL(reference || policy) of logits of shape [token, vocabulary]."""
    theirs = log_softmax(reference, -1)
    probability = theirs.exp()
    difference = theirs - log_softmax(policy, -1)
    # What the reference never says contributes nothing, also where both say so (-inf - -inf).
    return (probability * difference.masked_fill(probability == 0, 0.0)).sum(-1)


def sum_shared(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums over the first min(chosen, rejected) tokens of each response, shape [2 x pair].

    Args:
        values: of all tokens, the chosen responses' rows first, then the rejected ones'.
        lengths: tokens of each row, shape [2 x pair].

    >>> sum_shared(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 1]))
    tensor([1., 4.])
    """
    shared = torch.minimum(*lengths.chunk(2)).repeat(2)
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths, output_size=len(values))
    within = torch.arange(len(values), device=values.device) - starts
    limit = shared.repeat_interleave(lengths, output_size=len(values))
    return sum_by_row(torch.where(within < limit, values, 0.0), lengths)
