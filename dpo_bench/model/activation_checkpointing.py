"""Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): less memory for more arithmetic.

Of each decoder layer only what goes in is kept; in the backward pass the layer is computed again.
The same operations on the same values give the same bits, so no result changes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Module, ModuleList
from torch.utils.checkpoint import checkpoint

from dpo_bench.model.packed_attention import open_pack, packed_attention

Contexts = tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]


def decoder_layers(model: Any) -> list[Module]:
    """The layers that texts pass one after another; empty where none are to be found.

    That is the longest list of modules in the model's text part, whatever the two are called.

    Args:
        model: a causal language model, of transformers or of its own code.
    """
    return list(layer_list(model) or ())


def layer_list(model: Any) -> ModuleList | None:
    """The list that holds `decoder_layers`; None where there is none."""
    parts = [part for part in (_text_part(model), model) if part is not None]
    for part in parts:
        lists = [module for module in part.modules() if isinstance(module, ModuleList)]
        longest = max(lists, key=_parameters, default=None)
        if longest is not None and len(longest) > 0 and _parameters(longest) > 0:
            return longest
    return None


def checkpoint_layers(model: Any) -> int:
    """Let a model keep only what goes into its decoder layers; returns how many those are.

    What runs without gradient, such as sampling, is left as it is. A layer that is checkpointed
    already stays so.

    Args:
        model: is changed in place: its layers' ``forward``.
    """
    layers = decoder_layers(model)
    for layer in layers:
        if not isinstance(vars(layer).get("forward"), _Checkpointed):
            layer.forward = _Checkpointed(model, layer)
    return len(layers)


def keep_activations(model: Any) -> None:
    """Take back what `checkpoint_layers` did."""
    for layer in decoder_layers(model):
        own = vars(layer).get("forward")
        if isinstance(own, _Checkpointed):
            del layer.forward
            if own.replaced is not None:
                layer.forward = own.replaced


class _Checkpointed:
    """A layer's forward whose activations are computed again where they are needed.

    Args:
        model: the model that the layer belongs to.
        layer: has its forward from its class, or one of its own, which is ``replaced``.
    """

    def __init__(self, model: Any, layer: Any) -> None:
        self.model = model
        self.forward: Callable[..., Any] = layer.forward
        self.replaced = vars(layer).get("forward")
        functools.update_wrapper(self, self.forward)  # some models look at its signature

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*arguments, **options)
        return checkpoint(
            self.forward,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is random: there is no dropout
            context_fn=self._contexts,
            **options,
        )

    def _contexts(self) -> Contexts:
        """For the first pass, and for the second, which runs when the batch's context is closed.

        On a GPU it also runs in another thread, in which no context variable is set.
        """
        pack = open_pack()
        again = contextlib.nullcontext() if pack is None else packed_attention(self.model, pack)
        return contextlib.nullcontext(), again


def _text_part(model: Any) -> Any:
    """The decoder of a model that may have other parts besides."""
    find = getattr(model, "get_decoder", None)
    return find() if find is not None else getattr(model, "base_model", None)


def _parameters(module: Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
