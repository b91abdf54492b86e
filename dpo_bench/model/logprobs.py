"""Log-probs of response tokens, their sums, and the divergence of two models.

Logits of a large vocabulary are made for a few thousand tokens at a time and not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, pad
from torch.utils.checkpoint import checkpoint

from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.linear_head import target_logps
from dpo_bench.model.logprob_backends import LogprobBackend

if TYPE_CHECKING:
    from dpo_bench.data.batches import Ids
    from dpo_bench.model.logprob_backends import AnyBatch

__all__ = [
    "LogprobBackend",
    "TokenScores",
    "choose_backend",
    "response_logps",
    "score",
    "sum_by_row",
    "token_logps",
]

LOGITS_AT_ONCE = 1 << 26
"""Most logits held at once on a CPU (256 MiB in fp32): tokens x vocabulary."""
GPU_TOKENS_AT_ONCE = 4096
"""Tokens whose logits are held at once on a GPU (2 GiB in fp32 at 128k tokens): enough for a matrix
product to run at full speed and for the head's weights to be read seldom; not measured."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What two models say at each response position; all of shape [token], in nats.

    Attributes:
        policy_logp: the policy's log-prob of the token that is there.
        reference_logp: the reference's.
        kl: KL(policy || reference) of the two next-token distributions, over the full vocabulary.
        entropy: of the policy's next-token distribution.
    """

    policy_logp: Tensor
    reference_logp: Tensor
    kl: Tensor
    entropy: Tensor


def token_logps(backend: LogprobBackend, batch: AnyBatch) -> Tensor:
    """Log-prob of every response token; shape [token], nats, with gradient.

    Args:
        backend: a model with its kernel path.
        batch: texts on the path's device.
    """
    return backend.run(_token_logps, backend, batch)


def _token_logps(backend: LogprobBackend, batch: AnyBatch) -> Tensor:
    states, target = in_whole_slices(backend, backend.states(batch), batch.target)
    logps = _sliced_logps(backend, states, target)
    return logps[: len(batch.target)]


def _sliced_logps(backend: LogprobBackend, states: Tensor, target: Tensor) -> Tensor:
    at_once = tokens_at_once(backend)
    head = backend.linear_head()
    if head is not None and (len(states) > at_once or states.is_cuda):
        weight, bias = head
        return target_logps(states.to(weight.dtype), weight, bias, target, at_once)
    slices = list(_slices(len(states), at_once))
    if len(slices) == 1:
        return _target_logps(backend, states, target)
    # In the backward pass each slice's logits are computed again rather than all kept.
    parts = [
        checkpoint(
            _target_logps,
            backend,
            states[part],
            target[part],
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for part in slices
    ]
    return torch.cat(parts)


def response_logps(
    backend: LogprobBackend, prompts: Sequence[Ids], responses: Sequence[Ids]
) -> Tensor:
    """Summed log-probs of responses to prompts; shape [response], nats, without gradient."""
    return batch_logps(backend, backend.response_batch(prompts, responses))


def batch_logps(backend: LogprobBackend, batch: AnyBatch) -> Tensor:
    """Summed log-probs of a batch's responses; shape [response], nats, without gradient."""
    with torch.no_grad():
        return sum_by_row(token_logps(backend, batch), batch.lengths)


def score(policy: LogprobBackend, reference: LogprobBackend, batch: AnyBatch) -> TokenScores:
    """Compare two models at every response position, without gradient.

    Args:
        policy: the model whose KL and entropy are taken.
        reference: the model it is compared with; of the same vocabulary.
        batch: texts on both models' device.
    """
    with torch.no_grad():
        columns = policy.run(reference.run, _score, policy, reference, batch)
    return TokenScores(*columns)


def _score(
    policy: LogprobBackend, reference: LogprobBackend, batch: AnyBatch
) -> tuple[Tensor, ...]:
    ours, theirs = policy.states(batch), reference.states(batch)
    parts = [
        _compare(policy.logits(ours[part]), reference.logits(theirs[part]), batch.target[part])
        for part in _slices(len(ours), tokens_at_once(policy))
    ]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def sum_by_row(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum the tokens of each row: [token], [row] -> [row]; differentiable, always the same bits.

    The sum is taken in fp64 and rounded once, so that it does not depend on a device's order of
    adding: log-probs kept from a CPU and computed on a GPU cancel in a log-ratio.

    Args:
        values: of all tokens, row after row.
        lengths: tokens of each row; 0 gives the sum 0.

    >>> sum_by_row(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 1]))
    tensor([3., 0., 4.])
    """
    # The check that lengths add up would make a GPU wait for the CPU at every step.
    total = torch.segment_reduce(values.double(), "sum", lengths=lengths, unsafe=lengths.is_cuda)
    return total.to(values.dtype)


def tokens_at_once(backend: LogprobBackend) -> int:
    """Most tokens whose logits are held at once."""
    if backend.device.type != "cpu":
        return GPU_TOKENS_AT_ONCE
    most = max(1, LOGITS_AT_ONCE // backend.vocabulary)
    return min(most, backend.fixed_tokens) if backend.fills else most


def in_whole_slices(
    backend: LogprobBackend, states: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """States and targets, where passes have a fixed size with more behind them that nothing reads.

    So the last slice too has as many tokens as the others; see `LogprobBackend.fills`.
    """
    more = -len(target) % tokens_at_once(backend) if backend.fills else 0
    return (pad(states, (0, 0, 0, more)), pad(target, (0, more))) if more else (states, target)


def _slices(tokens: int, step: int) -> Iterator[slice]:
    """Slices of tokens; one that is empty when there are no tokens."""
    for start in range(0, max(tokens, 1), step):
        yield slice(start, min(start + step, tokens))


def _target_logps(backend: LogprobBackend, states: Tensor, target: Tensor) -> Tensor:
    return -cross_entropy(backend.logits(states), target, reduction="none")


def _compare(
    policy: Tensor, reference: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From logits of shape [token, vocabulary]: the fields of `TokenScores`."""
    policy, reference = log_softmax(policy, -1), log_softmax(reference, -1)
    own = policy.gather(-1, target[:, None]).squeeze(-1)
    other = reference.gather(-1, target[:, None]).squeeze(-1)
    probability = policy.exp()
    # A token that is impossible (its logit is -inf) or all but impossible contributes nothing.
    none = probability == 0
    kl = (policy - reference).masked_fill_(none, 0.0).mul_(probability).sum(-1)
    entropy = -policy.masked_fill_(none, 0.0).mul_(probability).sum(-1)
    return own, other, kl, entropy
