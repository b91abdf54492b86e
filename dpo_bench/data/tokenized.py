"""Tokenized preference pairs: flat arrays, an identity, and a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpo_bench.errors import DataError
from dpo_bench.storage import canonical_json, write_atomic

Tokens = NDArray[np.int32]
SIDES = ("prompt", "chosen", "rejected")
TEXTS = ("prompt_texts", "chosen_texts", "prompt_messages")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Sequences of different lengths, one after another in one array.

    Attributes:
        flat: all token ids, shape [token], read-only.
        offsets: where each sequence begins, and the end, shape [sequence + 1], read-only.
    """

    flat: Tokens
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.flat.setflags(write=False)
        self.offsets.setflags(write=False)

    @classmethod
    def of(cls, sequences: Sequence[Tokens]) -> Ragged:
        """Join sequences."""
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        flat = np.concatenate([np.empty(0, np.int32), *sequences])
        return cls(flat.astype(np.int32, copy=False), np.concatenate([[0], lengths.cumsum()]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Tokens:
        """Token ids of one sequence, shape [token]: a read-only view."""
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, shape [sequence]."""
        return np.diff(self.offsets)

    def take(self, indices: Sequence[int]) -> Ragged:
        """Some of the sequences, in the order of the indices."""
        return Ragged.of([self[index] for index in indices])


@dataclass(frozen=True, slots=True)
class Tally:
    """What was cut or left out while pairs were tokenized.

    Attributes:
        truncated_prompts: pairs whose prompt was cut.
        truncated_responses: responses that were cut, up to two a pair.
        dropped: pairs that were left out, by reason.
    """

    truncated_prompts: int = 0
    truncated_responses: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TokenizedPairs:
    """Preference pairs as token ids. A response has one end token, its last, unless it was cut.

    Attributes:
        prompt: token ids of each pair's prompt.
        chosen: token ids of the preferred response, without the prompt.
        rejected: token ids of the other response, without the prompt.
        prompt_texts: what the model reads as each prompt, as text; empty when not kept.
        chosen_texts: the preferred responses, decoded as sampled ones are; empty when not kept.
        tally: what was cut or left out to make them.
        margins: how much better each preferred response is, shape [pair], NaN where the data has no
            number; None where it has none at all.
        prompt_messages: the messages that a chat's prompt was written from, None for plain text;
            empty when not kept.
    """

    prompt: Ragged
    chosen: Ragged
    rejected: Ragged
    prompt_texts: Sequence[str] = ()
    chosen_texts: Sequence[str] = ()
    tally: Tally = Tally()
    margins: NDArray[np.float64] | None = None
    prompt_messages: Sequence[Sequence[Any] | None] = ()

    def __len__(self) -> int:
        return len(self.prompt)

    def pair(self, index: int) -> tuple[Tokens, Tokens, Tokens]:
        """Token ids of prompt, chosen and rejected response of one pair."""
        return self.prompt[index], self.chosen[index], self.rejected[index]

    @property
    def chosen_lengths(self) -> NDArray[np.int64]:
        """Tokens of each preferred response, EOS counted, shape [pair]."""
        return self.chosen.lengths

    @property
    def rejected_lengths(self) -> NDArray[np.int64]:
        """Tokens of each other response, EOS counted, shape [pair]."""
        return self.rejected.lengths

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Tokens of each pair, its prompt counted once, shape [pair]."""
        return self.prompt.lengths + self.chosen.lengths + self.rejected.lengths

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest prompt with a response."""
        return int(
            (self.sizes - np.minimum(self.chosen.lengths, self.rejected.lengths)).max(initial=0)
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the token ids and their order; texts and margins are no part of it."""
        total = hashlib.sha256(b"pairs 1")
        for side in (self.prompt, self.chosen, self.rejected):
            total.update(side.lengths.astype("<i8").tobytes())
            total.update(side.flat.astype("<i4").tobytes())
        return total.hexdigest()

    def take(self, indices: Sequence[int]) -> TokenizedPairs:
        """Some of the pairs, in the order of the indices, with an empty tally."""
        return TokenizedPairs(
            self.prompt.take(indices),
            self.chosen.take(indices),
            self.rejected.take(indices),
            _select(self.prompt_texts, indices),
            _select(self.chosen_texts, indices),
            margins=None if self.margins is None else self.margins[list(indices)],
            prompt_messages=_select(self.prompt_messages, indices),
        )

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, atomically."""
        from safetensors.numpy import save

        tensors: dict[str, NDArray[Any]] = {}
        for name in SIDES:
            side: Ragged = getattr(self, name)
            tensors |= {f"{name}.flat": side.flat, f"{name}.offsets": side.offsets}
        for name in TEXTS:
            tensors[name] = _to_bytes(getattr(self, name))
        if self.margins is not None:
            tensors["margins"] = self.margins
        tally = {
            "truncated_prompts": self.tally.truncated_prompts,
            "truncated_responses": self.tally.truncated_responses,
            "dropped": dict(self.tally.dropped),
        }
        header = {"digest": self.digest, "checksum": _checksum(tensors, tally), "tally": tally}
        write_atomic(path, save(tensors, {"dpo_bench": json.dumps(header, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> TokenizedPairs:
        """Read what `save` wrote.

        Raises:
            DataError: the file is damaged; its checksum is verified.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                header = json.loads((file.metadata() or {})["dpo_bench"])
        except (SafetensorError, KeyError, ValueError) as problem:
            raise DataError(f"{path} holds no tokenized pairs ({problem}).") from None
        if header["checksum"] != _checksum(tensors, header["tally"]):
            raise DataError(f"{path} is damaged: its checksum is wrong.")
        prompt, chosen, rejected = (
            Ragged(tensors[f"{name}.flat"], tensors[f"{name}.offsets"]) for name in SIDES
        )
        pairs = cls(prompt, chosen, rejected, tally=Tally(**header["tally"]))
        prompts, responses, messages = (_to_texts(tensors[name]) for name in TEXTS)
        return replace(
            pairs,
            prompt_texts=prompts,
            chosen_texts=responses,
            margins=tensors.get("margins"),
            prompt_messages=messages,
        )


def _select(texts: Sequence[Item], indices: Iterable[int]) -> tuple[Item, ...]:
    return tuple(texts[index] for index in indices) if texts else ()


def _to_bytes(texts: Sequence[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)


def _to_texts(data: NDArray[np.uint8]) -> tuple[Any, ...]:
    return tuple(json.loads(data.tobytes()))


def _checksum(tensors: Mapping[str, NDArray[Any]], tally: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all in the file: names, types with their byte order, shapes, bytes."""
    total = hashlib.sha256(canonical_json(tally).encode())
    for name, values in sorted(tensors.items()):
        total.update(f"{name}\0{values.dtype.str}\0{values.shape}\0".encode())
        total.update(values.tobytes())
    return total.hexdigest()
