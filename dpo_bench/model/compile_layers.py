"""Compilation of a model's layers, each by itself, at the one size that its packed passes have."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module

from dpo_bench.model.activation_checkpointing import decoder_layers
from dpo_bench.model.choose_backend import probe_ids
from dpo_bench.model.logprobs import token_logps

if TYPE_CHECKING:
    from dpo_bench.model.logprob_backends import LogprobBackend

log = logging.getLogger(__name__)

OPTIONS = {"emulate_precision_casts": True}
"""Of torch's inductor: values are rounded to bf16 where the model's code does, however operators
are fused, so that a pass with and one without gradient have the same bits."""


class CompiledLayers:
    """Compiled forms of some layers, which are used while this is open.

    Sampling calls the same layers with ever longer texts and would have each length compiled.

    Args:
        layers: of one model; all of a kind share what is compiled.
        compiler: a backend of ``torch.compile``.
    """

    def __init__(self, layers: list[Module], compiler: str) -> None:
        options: dict[str, Any] = {"options": OPTIONS} if compiler == "inductor" else {}
        self.calls: list[tuple[Module, Callable[..., Any]]] = []
        for layer in layers:
            layer.compile(backend=compiler, fullgraph=True, dynamic=False, **options)
            self.calls.append((layer, _swapped(layer, None)))

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While this is open the layers are called in their compiled form."""
        for layer, call in self.calls:
            _swapped(layer, call)
        try:
            yield
        finally:
            for layer, _ in self.calls:
                _swapped(layer, None)


def _swapped(layer: Module, call: Callable[..., Any] | None) -> Any:
    """Give a layer another compiled form, or none; returns the one before."""
    # Module.compile has no other way back.
    before, layer._compiled_call_impl = layer._compiled_call_impl, call  # noqa: SLF001
    return before


def compile_alike(backends: list[LogprobBackend], compiler: str = "inductor") -> None:
    """Compile the layers of models that are compared, or of none of them where one cannot be."""
    if not all(compile_layers(backend, compiler) for backend in backends):
        for backend in backends:
            backend.compiled = None


def compile_layers(backend: LogprobBackend, compiler: str = "inductor") -> bool:
    """Compile the layers of a model whose passes are all of one size; returns whether it is done.

    Where it cannot be done, or a pass with gradient would have other bits than one without, the
    model is left as it is.

    Args:
        backend: is changed.
        compiler: a backend of ``torch.compile``.
    """
    layers = decoder_layers(backend.model)
    reason = "its passes are not of one size"
    if backend.fills and layers and any("forward" in vars(layer) for layer in layers):
        reason = "their activations are computed again in the backward pass"
    elif backend.fills and layers:
        backend.compiled = CompiledLayers(layers, compiler).open
        reason = "a pass with gradient has other bits than one without"
        try:
            if _is_consistent(backend):
                return True
        except Exception as error:  # whatever a compiler stumbles over
            reason = " ".join(str(error).split())[:200]
        backend.compiled = None
    log.info("the layers of %s are not compiled: %s", type(backend.model).__name__, reason)
    return False


def _is_consistent(backend: LogprobBackend) -> bool:
    """Whether log-probs have the same bits with and without gradient."""
    ids = probe_ids(backend.model)[0].tolist()
    batch = backend.response_batch([ids[:1]], [ids[1:]])
    with torch.no_grad():
        expected = token_logps(backend, batch)
    return torch.equal(token_logps(backend, batch).detach(), expected)
