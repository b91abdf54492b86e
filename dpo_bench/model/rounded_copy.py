"""A model's weights in bf16 for as long as it samples, so that no token rounds them anew.

Under autocast every matrix product rounds its weight at every use: of a pass over one token of each
row that is most of the memory traffic. The copy gives the same products of the same numbers.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

if TYPE_CHECKING:
    from dpo_bench.model.logprob_backends import LogprobBackend


@contextlib.contextmanager
def rounded(backend: LogprobBackend) -> Iterator[LogprobBackend]:
    """While this is open: the backend to sample with.

    In bf16 its matrices are copied in bf16. An adapter (`dpo_bench.model.lora`) over weights in
    fp32 is added to them before they are rounded: two products less in each layer. Over weights
    that are in bf16 already it stays by itself: added, what is smaller than their last digit would
    be lost, and samples would come from a policy nearer to the reference than the one that is
    measured. In fp32, and where nothing is left to be rounded, it is the backend itself.

    Args:
        backend: of a model that this process holds whole.
    """
    matrices = _matrices(backend.model) if backend.precision == "bf16" else {}
    if not matrices:
        yield backend
        return
    sampling = copy.copy(backend)
    with torch.no_grad():
        sampling.model = _copied(backend.model, matrices)
    yield sampling


def _matrices(model: Any) -> dict[int, Tensor]:
    """Weights and biases in fp32 of what is a matrix product for autocast, by ``id``.

    Embeddings are none, and what is tied to them is used in both ways.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    kept = {id(one) for end in ends if end is not None for one in end.parameters()}
    return {
        id(one): one
        for module in model.modules()
        if isinstance(module, Linear) or type(module).__name__ == "Conv1D"
        for one in module.parameters(recurse=False)
        if one.dtype == torch.float32 and id(one) not in kept
    }


def _copied(model: Any, matrices: dict[int, Tensor]) -> Any:
    """The modules once more, over the same tensors but for the matrices and what adapts them."""
    adapted = [
        (name, layer)
        for name, layer in _adapters(model)
        if layer.get_base_layer().weight.dtype == torch.float32
    ]
    sums = {id(one.get_base_layer().weight): one for _, one in adapted}
    of_adapters = {id(one) for _, layer in adapted for one in _own_parameters(layer)}
    memo: dict[int, Any] = {id(one): one for one in (*model.parameters(), *model.buffers())}
    for key, one in matrices.items():
        if key in of_adapters:
            continue
        whole = one
        if key in sums:
            layer = sums[key]
            (adapter,) = layer.active_adapters
            whole = one + layer.get_delta_weight(adapter)
        memo[key] = Parameter(whole.to(torch.bfloat16), requires_grad=False)
    found = copy.deepcopy(model, memo)
    for name, _ in adapted:
        above, _, last = name.rpartition(".")
        setattr(found.get_submodule(above), last, found.get_submodule(name).get_base_layer())
    return found


def _adapters(model: Any) -> Iterator[tuple[str, Any]]:
    """Layers with an adapter of peft's, by their names."""
    lora = sys.modules.get("peft.tuners.lora")
    if lora is None:  # then nobody has adapted anything
        return
    for name, module in model.named_modules():
        if isinstance(module, lora.LoraLayer):
            yield name, module


def _own_parameters(layer: Any) -> Iterator[Parameter]:
    """Those of a layer's adapter."""
    base: Module = layer.get_base_layer()
    own = {id(one) for one in base.parameters()}
    return (one for one in layer.parameters() if id(one) not in own)
