"""A model whose weights are divided among ranks: each holds a share of every tensor.

The division is FSDP2's (`torch.distributed.fsdp.fully_shard`): a layer's weights are put together
on every rank for as long as the layer is computed, forward or backward, and gradients are summed
into the shares. Precision is FSDP2's too: in bf16 the shares are fp32 and what is computed with is
their bf16 copy; gradients are summed in fp32.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Module, Parameter

from dpo_bench.model.activation_checkpointing import decoder_layers
from dpo_bench.model.module_copy import copy_over

if TYPE_CHECKING:
    from dpo_bench.model.logprob_backends import LogprobBackend
    from dpo_bench.model.ranks import Ranks


def share_backend(ranks: Ranks, name: str, backend: LogprobBackend, device: str) -> LogprobBackend:
    """Divide a backend's model among the ranks; for the leading rank only.

    Args:
        ranks: those that hold it.
        name: what all know it by from now on.
        backend: whole, in the memory of the CPU; it is not to be used any more.
        device: where the shares go.

    Returns:
        a backend that is used in the same way, within calls that all ranks make.
    """
    empty = copy.copy(backend)
    empty.model = copy_over(backend.model, lambda one: torch.empty_like(one, device="meta"))
    ranks.shared["model"] = backend.model
    ranks.call(_divide, ranks, name, empty, device)
    del ranks.shared["model"]
    divided: LogprobBackend = ranks.shared[name]
    return divided


@contextlib.contextmanager
def whole(backend: LogprobBackend) -> Iterator[None]:
    """While this is open every rank holds all weights, and may run the model by itself.

    So responses are sampled: token by token the layers would be put together anew. Within a call.
    """
    parts = [one for one in backend.model.modules() if isinstance(one, FSDPModule)]
    before, backend.enter = backend.enter, None
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)
        backend.enter = before


def undivided(tensor: Tensor) -> Tensor:
    """A whole tensor; of a divided one within a call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """The same in the memory of the CPU, without gradient."""
    return undivided(tensor).detach().cpu()


def copy_into(target: Tensor, values: Tensor) -> None:
    """Copy a whole tensor, which all ranks have, into one that may be divided."""
    if isinstance(target, DTensor):
        values = distribute_tensor(
            values.to(target.device), target.device_mesh, target.placements, src_data_rank=None
        )
    target.copy_(values)


def _divide(ranks: Ranks, name: str, backend: LogprobBackend, device: str) -> None:
    """On every rank: fill a model from the leading rank's, layer by layer, and divide it."""
    model = ranks.shared.get("model", backend.model)
    backend.model = model
    policy, frozen = MixedPrecisionPolicy(), None
    if backend.precision == "bf16":
        frozen = torch.bfloat16
        policy = MixedPrecisionPolicy(param_dtype=frozen, reduce_dtype=torch.float32)
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for part in (*_layers(model), model):
        _fill(part, made, ranks, device, frozen)
        # Also the outermost part gives its weights back after each pass: so whoever looks at the
        # model between two passes sees shares, always the same tensors.
        fully_shard(part, mp_policy=policy, reshard_after_forward=True)
    type(model).run_within = _run_within  # a class of FSDP2's own, made for this model
    register_fsdp_forward_method(model, "run_within")
    backend.ranks = ranks
    backend.enter = model.run_within
    # The first forward pass that FSDP2 sees decides which module is the outermost.
    backend.run(torch.zeros, 1)
    ranks.shared[name] = backend


def _run_within(_model: Any, function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _layers(model: Any) -> list[Module]:
    """A model's decoder layers; none where they share weights."""
    layers = decoder_layers(model)
    weights = [id(one) for layer in layers for one in layer.parameters()]
    return layers if len(weights) == len(set(weights)) else []


def _fill(
    part: Module,
    made: dict[int, tuple[Tensor, Tensor]],
    ranks: Ranks,
    device: str,
    frozen: torch.dtype | None,
) -> None:
    """Give a part of a model the leading rank's tensors; tied ones stay one.

    Args:
        part: its own tensors are on the meta device, or on the leading rank whole.
        made: old and new tensors by the ``id`` of either.
        ranks: all of which do this.
        device: where the new ones go.
        frozen: dtype of weights that are not trained; None: their own.
    """
    for module in part.modules():
        kinds: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)  # noqa: SLF001  # as Module._apply does
        for kind in kinds:
            for name, old in kind.items():
                if old is None or isinstance(old, DTensor):
                    continue
                if id(old) not in made:
                    values = torch.empty_like(old, device="cpu") if old.is_meta else old.detach()
                    ranks.broadcast(values)
                    new: Tensor = values.to(device)
                    if isinstance(old, Parameter):
                        if frozen is not None and not old.requires_grad:
                            new = new.to(frozen)
                        new = Parameter(new, old.requires_grad)
                    # What is looked up by its id is kept, so that no other tensor gets that id.
                    made[id(old)] = made[id(new)] = old, new
                kind[name] = made[id(old)][1]
