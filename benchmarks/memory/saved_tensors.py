"""Activations counted in another way than the plan counts them: by what autograd saves.

The plan watches storages come and go over a small pass and extends a line. Here a pass has its true
size, and what counts is each storage that a forward pass leaves for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpo_bench.data.packing import pack_pairs
from dpo_bench.data.tokenized import TokenizedPairs
from dpo_bench.model.activation_checkpointing import decoder_layers
from dpo_bench.model.live_bytes import tensor_bytes
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.pass_memory import fake_backend, fake_batch


def saved_bytes(
    backend: LogprobBackend,
    pairs: TokenizedPairs,
    indices: list[int],
    *,
    checkpointing: bool,
    dtype: torch.dtype | None,
) -> int:
    """Bytes at the beginning of the backward pass of the layers, weights left out.

    With checkpointing: what goes into each layer, and all that one layer saves, which is there
    again while its backward pass runs; the first layer's.
    """
    fake, mode = fake_backend(backend, dtype)
    saved: list[Tensor] = []
    entering: list[Tensor] = []
    of_first: list[Tensor] = []
    inside = False

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        if inside:
            of_first.append(tensor)
        return tensor

    def enters(_layer: Any, arguments: tuple[Any, ...]) -> None:
        entering.append(arguments[0])

    def first(_layer: Any, _arguments: Any, _output: Any = None) -> None:
        nonlocal inside
        inside = not inside

    layers = decoder_layers(fake.model)
    layers[1].register_forward_pre_hook(first)  # the first one's input may need no gradient
    layers[1].register_forward_hook(first)
    for layer in layers:
        layer.register_forward_pre_hook(enters)
    with mode, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = fake.states(fake_batch(pack_pairs(pairs, indices)))
    weights = {one.untyped_storage()._cdata for one in fake.model.parameters()}

    def own(tensors: list[Tensor]) -> list[Tensor]:
        return [one for one in tensors if one.untyped_storage()._cdata not in weights]

    if not checkpointing:
        return tensor_bytes(own([*saved, states]))
    return tensor_bytes([*entering, states]) + tensor_bytes(own(of_first))
