"""What the frozen lower layers of a model give: computed once for all trials of a worker.

An adapter in the upper layers alone (``training.lora.layers = "top:N"``) leaves all below as it is,
so the hidden states that come out there belong to a text, whichever trial reads it, and policy and
reference have the same ones. They are kept in the memory of the host, pair by pair and by content,
up to a given number of bytes; of the other pairs they are computed each time.

Kept or computed, a pair's states have the same bits: they come of passes of the lower layers alone,
which are filled up to one size, so that rounding does not depend on what shares a pass (in passes
as long as their texts, states of a model of SmolLM2's width were off by up to 2e-5 in fp32). In the
pass of all layers that this stands for, rounding is another: see `choose_lower_layers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import Module

from dpo_bench.data.batches import split_passes
from dpo_bench.data.packing import Pack, pack_pairs
from dpo_bench.model.activation_checkpointing import layer_list

if TYPE_CHECKING:
    from dpo_bench.data.tokenized import TokenizedPairs

FILLED_TOKENS = 512
"""Tokens up to which a pass of the lower layers is filled where passes have no fixed size."""


class PackedModel(Protocol):
    """What a `LogprobBackend` is to this module; its attributes are described there."""

    model: Any

    @property
    def device(self) -> torch.device: ...  # noqa: D102
    @property
    def fixed_tokens(self) -> int: ...  # noqa: D102
    def packed(self, pack: Pack) -> contextlib.AbstractContextManager[None]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PairPack(Pack):
    """A pack that knows of which pairs it is made.

    Attributes:
        pairs: from which they are taken.
        numbers: which of them, on the host.
    """

    pairs: TokenizedPairs
    numbers: tuple[int, ...]


class LowerLayers:
    """The lower layers' hidden states, kept by the content of pairs.

    Of a full memory nothing is dropped for what is new: epoch after epoch asks for all pairs alike,
    and whoever drops the oldest finds none again.

    Args:
        count: how many layers are frozen, the lowest ones.
        room: bytes that may be kept.

    Attributes:
        hits: pairs whose states were there, of all that were asked for.
        asked: pairs that were asked for.
    """

    def __init__(self, count: int, room: int) -> None:
        self.count = count
        self.room = room
        self.hits = self.asked = 0
        self._kept: dict[bytes, Tensor] = {}
        self._latest: tuple[Pack | None, Tensor] = (None, torch.empty(0))

    def pack(self, pairs: TokenizedPairs, numbers: Sequence[int], fixed: int) -> PairPack:
        """As `pack_pairs`, for texts whose states are looked up."""
        pack = pack_pairs(pairs, numbers, fixed)
        values = {one.name: getattr(pack, one.name) for one in fields(pack)}
        return PairPack(**values, pairs=pairs, numbers=tuple(numbers))

    @contextlib.contextmanager
    def given(self, backend: PackedModel, pack: Pack) -> Iterator[None]:
        """While this is open the model's lower layers give what they gave for these texts before.

        Args:
            backend: of the model whose layers these are, or of one with the same lower layers.
            pack: the texts, on the backend's device.
        """
        states = self.states(backend, pack)[None]
        layers: Any = layer_list(backend.model)
        stand_ins: dict[int, Module] = {at: _PassOn(layers[at]) for at in range(self.count)}
        stand_ins[self.count - 1] = _Given(layers[self.count - 1], states)
        with _replaced(layers, stand_ins):
            yield

    def states(self, backend: PackedModel, pack: Pack) -> Tensor:
        """Hidden states of all tokens of a pack behind the lower layers, shape [token, width]."""
        # Policy and reference read a pack one after the other.
        if pack is not self._latest[0]:
            # Tensors of inference mode could not be used where a gradient is taken later.
            with torch.inference_mode(mode=False), torch.no_grad():
                if isinstance(pack, PairPack):
                    self._latest = pack, self._looked_up(backend, pack)
                else:
                    self._latest = pack, self.computed(backend, pack)
        return self._latest[1]

    def share(self, pairs: TokenizedPairs) -> float:
        """What share of some pairs there is room for, by those that are kept."""
        tokens = sum(map(len, self._kept.values()))
        taken = sum(one.nbytes for one in self._kept.values())
        whole = int(pairs.sizes.sum()) * taken / max(1, tokens)
        return min(1.0, (taken + self.room) / max(1.0, whole))

    def _looked_up(self, backend: PackedModel, pack: PairPack) -> Tensor:
        """The same from what is kept, and what is missing of it from passes of its own."""
        pairs = pack.pairs
        keys = {number: _key(pairs, number) for number in pack.numbers}
        missing = [number for number, key in keys.items() if key not in self._kept]
        self.asked += len(keys)
        self.hits += len(keys) - len(missing)
        fresh = self.fresh(backend, pairs, missing) if missing else {}
        for number, states in fresh.items():
            self._keep(keys[number], states)
        found = [
            fresh[number]
            if number in fresh
            else self._kept[keys[number]].to(backend.device, non_blocking=True)
            for number in pack.numbers
        ]
        # Tokens that fill a pass up: nothing reads them, but they are to be numbers.
        inert = pack.input_ids.shape[1] - sum(map(len, found))
        return torch.cat([*found, found[0][:1].expand(inert, -1)])

    def fresh(
        self, backend: PackedModel, pairs: TokenizedPairs, numbers: Sequence[int]
    ) -> dict[int, Tensor]:
        """States of some pairs, by number, of passes of the one size; of a longer pair, its own."""
        size = backend.fixed_tokens or FILLED_TOKENS
        found: dict[int, Tensor] = {}
        for part in split_passes(pairs, numbers, tokens_per_pass=size):
            states = self.computed(backend, pack_pairs(pairs, part, size).to(backend.device))
            sizes: list[int] = pairs.sizes[part].tolist()
            found |= zip(part, states[: sum(sizes)].split(sizes), strict=True)
        return found

    def _keep(self, key: bytes, states: Tensor) -> None:
        if key in self._kept or states.nbytes > self.room:
            return
        kept = torch.empty_like(states, device="cpu", pin_memory=states.is_cuda)
        self._kept[key] = kept.copy_(states)
        self.room -= states.nbytes

    def computed(self, backend: PackedModel, pack: Pack) -> Tensor:
        """The same by a pass through the lower layers, without gradient."""
        layers: Any = layer_list(backend.model)
        behind = range(self.count, len(layers))
        stand_ins: dict[int, Module] = {at: _PassOn(layers[at]) for at in behind}
        stand_ins[self.count] = reached = _Reached(layers[self.count])
        with torch.no_grad(), backend.packed(pack), _replaced(layers, stand_ins):
            backend.model.base_model(input_ids=pack.input_ids, position_ids=pack.position_ids)
        return reached.states[0]


class _PassOn(Module):
    """Stands in for a layer and hands on what it is given.

    Args:
        layer: whose other attributes it has, of which some models ask.
    """

    def __init__(self, layer: Module) -> None:
        super().__init__()
        self._layer = (layer,)  # no child, whose hooks and weights would be this module's

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"][0], name)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """The same states."""
        return hidden_states


class _Given(_PassOn):
    """Gives hidden states that are known, whatever it is given."""

    def __init__(self, layer: Module, states: Tensor) -> None:
        super().__init__(layer)
        self.states = states

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """The known states."""
        return self.states


class _Reached(_PassOn):
    """Remembers the hidden states that reach it."""

    states: Tensor

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """The same states."""
        self.states = hidden_states
        return hidden_states


@contextlib.contextmanager
def _replaced(layers: Any, stand_ins: Mapping[int, Module]) -> Iterator[None]:
    """While this is open other modules stand in a list; what is compiled or wrapped stays so."""
    before = {at: layers[at] for at in stand_ins}
    try:
        for at, one in stand_ins.items():
            layers[at] = one
        yield
    finally:
        for at, one in before.items():
            layers[at] = one


def _key(pairs: Any, number: int) -> bytes:
    """What a pair is known by: its tokens, and where each text ends."""
    found = blake2b(digest_size=16)
    for text in pairs.pair(number):
        found.update(len(text).to_bytes(8, "little"))
        found.update(text.tobytes())
    return found.digest()
