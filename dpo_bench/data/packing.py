"""Pairs as one row of tokens without padding, each prompt in it once.

Everything in a transformer but attention works on single tokens, so it may see all texts as one
long row, and a prompt's tokens once for all of its responses. Attention alone needs whole texts:
the tokens of each, prompt and response, are gathered into rows, computed causally, and put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpo_bench.data.batches import Ids, to_device
from dpo_bench.data.tokenized import Ragged, TokenizedPairs

Index = NDArray[np.int64]
BUCKET_FILL = 0.75
"""A text joins a bucket of longer ones when it fills this share of its longest."""
INERT_TEXT = 64
"""Tokens of the texts that fill a pass up."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Texts of similar length that attention computes together.

    Attributes:
        rows: number of texts.
        length: slots of each, tokens.
    """

    rows: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Prompts, each followed by its responses, in one row; and where everything is.

    A *slot* is a place in the rows that attention sees: text after text, bucket after bucket.

    Attributes:
        input_ids: shape [1, token].
        position_ids: place of each token in its text; a response goes on where its prompt ends;
            shape [1, token].
        token_of_slot: which token stands in a slot; padding repeats token 0, and no text's token
            attends to it; shape [slot].
        slot_of_token: where a token is read from; of a prompt's many slots that in the text of its
            first response; shape [token].
        shared_tokens: prompt tokens that stand in further texts: of the second responses, then of
            the third ones ...; within one of these tensors no token comes twice.
        shared_slots: where they stand there; the same shapes.
        state: the token whose hidden state predicts each response token, response after response;
            shape [response token].
        target: the response tokens' ids, likewise.
        lengths: tokens of each response, shape [response].
        starts: first slot of each row of the buckets and the end of the last one, shape [row + 1].
        buckets: how the slots are cut into rows.
        index: which pairs these are, shape [pair]; empty where the texts are not taken from pairs.
    """

    input_ids: Tensor
    position_ids: Tensor
    token_of_slot: Tensor
    slot_of_token: Tensor
    shared_tokens: tuple[Tensor, ...]
    shared_slots: tuple[Tensor, ...]
    state: Tensor
    target: Tensor
    lengths: Tensor
    starts: Tensor
    buckets: tuple[Bucket, ...]
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def to(self, device: torch.device | str) -> Pack:
        """The same on a device; to a GPU, the copy overlaps with what the CPU does next."""
        names = [one.name for one in fields(self) if isinstance(getattr(self, one.name), Tensor)]
        tensors = [getattr(self, name) for name in names]
        moved = to_device([*tensors, *self.shared_tokens, *self.shared_slots], device)
        changes: dict[str, Any] = dict(zip(names, moved, strict=False))
        shared = moved[len(names) :]
        half = len(self.shared_tokens)
        changes |= {"shared_tokens": tuple(shared[:half]), "shared_slots": tuple(shared[half:])}
        return replace(self, **changes)


def pack_pairs(pairs: TokenizedPairs, indices: Sequence[int], fixed: int = 0) -> Pack:
    """Pack pairs; the responses count the chosen ones first, then the rejected ones.

    Args:
        pairs: tokenized pairs.
        indices: which of them.
        fixed: the row is filled up to this number of tokens, or to the next multiple of it, with
            texts that nothing reads, and attention computes only texts of equal length
            together. Then all shapes but their number are the same whatever shares the row, and so
            are the bits of a text's log-probs, in any precision. 0: neither.
    """
    owners = np.tile(np.arange(len(indices)), 2)
    responses = Ragged.of(
        [side[index] for side in (pairs.chosen, pairs.rejected) for index in indices]
    )
    pack = _pack(pairs.prompt.take(indices), responses, owners, fixed)
    return replace(pack, index=torch.as_tensor(indices, dtype=torch.long))


def pack_responses(prompts: Sequence[Ids], responses: Sequence[Ids], fixed: int = 0) -> Pack:
    """Pack prompts with their responses, as `pad_responses` pads them.

    Neighbors with an equal prompt share it. For ``fixed`` see `pack_pairs`.

    Raises:
        ValueError: an empty prompt: nothing would predict the first token of its response.
    """
    if len(prompts) != len(responses):
        raise ValueError("every response needs a prompt of at least one token")
    texts = [tuple(int(token) for token in prompt) for prompt in prompts]
    starts = [at for at, text in enumerate(texts) if at == 0 or text != texts[at - 1]]
    owners = np.zeros(len(texts), np.int64)
    owners[starts[1:]] = 1
    return _pack(
        Ragged.of([np.asarray(texts[at], np.int32) for at in starts]),
        Ragged.of([np.asarray(response, np.int32) for response in responses]),
        owners.cumsum(),
        fixed,
    )


def _pack(prompts: Ragged, responses: Ragged, owners: Index, fixed: int) -> Pack:
    """Pack responses, each with the prompt of its number in ``owners``; every prompt has one."""
    before, after = prompts.lengths, responses.lengths
    if len(before) and before.min() < 1:
        raise ValueError("every response needs a prompt of at least one token")
    prompt_at, response_at = _places(before, after, owners)
    tokens = int(before.sum() + after.sum())
    inert = -tokens % fixed if fixed else 0
    # The inert tokens are the last ones, all at the first place of a text.
    ids, positions = np.zeros((2, tokens + inert), np.int64)
    place = _ranges(prompt_at, before)
    ids[place], positions[place] = prompts.flat, _ranges(np.zeros_like(before), before)
    place = _ranges(response_at, after)
    ids[place], positions[place] = responses.flat, _ranges(before[owners], after)
    # A response's first token is predicted by its prompt's last, the others by the one before.
    state = place - 1
    filled = after > 0
    state[(after.cumsum() - after)[filled]] = (prompt_at + before - 1)[owners[filled]]
    fill = 1.0 if fixed else BUCKET_FILL
    slots = _slots(before, prompt_at, response_at, after, owners, inert=inert, fill=fill)
    return Pack(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(positions)[None],
        state=torch.from_numpy(state),
        target=torch.from_numpy(responses.flat.astype(np.int64)),
        lengths=torch.from_numpy(after),
        **slots,
    )


def _places(before: Index, after: Index, owners: Index) -> tuple[Index, Index]:
    """First token of each prompt and of each response in the row."""
    order = np.argsort(owners, kind="stable")
    owned = np.bincount(owners, after, len(before)).astype(np.int64)
    prompt_at = before.cumsum() - before + owned.cumsum() - owned
    response_at = np.empty_like(after)
    sizes = after[order]
    response_at[order] = sizes.cumsum() - sizes + before.cumsum()[owners[order]]
    return prompt_at, response_at


def _slots(
    before: Index,
    prompt_at: Index,
    response_at: Index,
    after: Index,
    owners: Index,
    *,
    inert: int,
    fill: float,
) -> dict[str, Any]:
    """The fields of a `Pack` that tell how attention's rows are made of its tokens."""
    lengths = before[owners] + after
    order = np.argsort(-lengths, kind="stable")
    buckets = _buckets(lengths[order], fill)
    strides = np.repeat([b.length for b in buckets], [b.rows for b in buckets]).astype(np.int64)
    row_at = np.empty_like(lengths)
    row_at[order] = strides.cumsum() - strides

    filled, tokens_of_texts = int(strides.sum()), int(before.sum() + after.sum())
    token_of_slot = np.zeros(filled + inert, np.int64)
    slot_of_token = np.empty(tokens_of_texts + inert, np.int64)
    token_of_slot[filled:] = np.arange(tokens_of_texts, tokens_of_texts + inert)
    slot_of_token[tokens_of_texts:] = np.arange(filled, filled + inert)
    buckets += _inert_buckets(inert)
    tokens, slots = _ranges(response_at, after), _ranges(row_at + before[owners], after)
    token_of_slot[slots], slot_of_token[tokens] = tokens, slots
    shared: list[tuple[Tensor, Tensor]] = []
    rank = _rank_among_equals(owners)
    for turn in range(int(rank.max(initial=-1)) + 1):
        mine = (rank == turn).nonzero()[0]
        sizes = before[owners[mine]]
        tokens, slots = _ranges(prompt_at[owners[mine]], sizes), _ranges(row_at[mine], sizes)
        token_of_slot[slots] = tokens
        if turn == 0:
            slot_of_token[tokens] = slots
        else:
            shared.append((torch.from_numpy(tokens), torch.from_numpy(slots)))
    sizes = np.repeat([b.length for b in buckets], [b.rows for b in buckets]).astype(np.int64)
    return {
        "starts": torch.from_numpy(np.concatenate([[0], sizes.cumsum()])),
        "token_of_slot": torch.from_numpy(token_of_slot),
        "slot_of_token": torch.from_numpy(slot_of_token),
        "shared_tokens": tuple(tokens for tokens, _ in shared),
        "shared_slots": tuple(slots for _, slots in shared),
        "buckets": buckets,
    }


def _buckets(lengths: Index, fill: float) -> tuple[Bucket, ...]:
    """Cut texts, the longest first, where they would leave too much of a bucket empty."""
    found = []
    start = 0
    while start < len(lengths):
        longest = int(lengths[start])
        rows = int((lengths[start:] >= fill * longest).sum())
        found.append(Bucket(rows, longest))
        start += rows
    return tuple(found)


def _inert_buckets(tokens: int) -> tuple[Bucket, ...]:
    """Tokens that nothing reads, in texts that are few and cost little."""
    whole, rest = divmod(tokens, INERT_TEXT)
    kinds = (Bucket(whole, INERT_TEXT), Bucket(1, rest))
    return tuple(kind for kind in kinds if kind.rows and kind.length)


def _ranges(starts: Index, lengths: Index) -> Index:
    """start, start + 1, ... of each length, one after another."""
    return np.arange(int(lengths.sum())) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)


def _rank_among_equals(values: Index) -> Index:
    """How many equal values stand before each."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    first = np.searchsorted(ranked, ranked)
    rank = np.empty_like(values)
    rank[order] = np.arange(len(values)) - first
    return rank
