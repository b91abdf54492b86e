"""Weights in bf16 to compute with, and fp32 masters of those that are trained.

A matrix product in bf16 rounds its weights before every use. Rounded once a step they are half as
large to read, and nothing is cast on the way; the optimizer goes on with masters that keep what
rounding would lose (Micikevicius et al. 2018, arXiv:1710.03740, section 3.1).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

NARROW = torch.bfloat16


class MasterWeights:
    """Holds the masters of a model whose parameters are in bf16.

    A pass's gradient is added to its master's in fp32 as soon as it is whole, and freed.

    Args:
        model: whose trained parameters get a master; those in fp32 are put into bf16, frozen ones
            too, but for what the model's own code keeps in fp32.
        frozen: whether parameters that are not trained get a master too.

    Attributes:
        masters: by the parameter's first name.
        exact: whether rounding changed no weight at first: as of weights that were saved in bf16.
    """

    def __init__(self, model: Any, *, frozen: bool = False) -> None:
        self.masters: dict[str, Parameter] = {}
        self._parameters: list[Parameter] = []
        self._hooks: list[Any] = []
        for name, parameter in _narrowed_parameters(model):
            if parameter.requires_grad or frozen:
                # In fp32 already it is taken over, else copied.
                master = Parameter(parameter.data.float(), parameter.requires_grad)
                self.masters[name] = master
                self._parameters.append(parameter)
            parameter.data = parameter.data.to(NARROW)
            if parameter.requires_grad:
                parameter.grad = None
                accumulate = _Accumulate(self.masters[name])
                self._hooks.append(parameter.register_post_accumulate_grad_hook(accumulate))
        pairs = zip(self._parameters, self.masters.values(), strict=True)
        self.exact = all(torch.equal(parameter.float(), master) for parameter, master in pairs)

    @torch.no_grad()
    def copy_back(self) -> None:
        """Make the weights what their masters round to."""
        narrow = [parameter.data for parameter in self._parameters]
        if narrow:
            torch._foreach_copy_(narrow, list(self.masters.values()))

    def withdraw(self) -> None:
        """Leave the parameters' gradients to themselves again."""
        for hook in self._hooks:
            hook.remove()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While this is open the model's parameters are the masters, to be read or overwritten."""
        narrow = [parameter.data for parameter in self._parameters]
        for parameter, master in zip(self._parameters, self.masters.values(), strict=True):
            parameter.data = master.data
        try:
            yield
        finally:
            for parameter, data in zip(self._parameters, narrow, strict=True):
                parameter.data = data
            self.copy_back()


class _Accumulate:
    """Adds a parameter's gradient to its master's, in fp32."""

    def __init__(self, master: Parameter) -> None:
        self.master = master

    def __call__(self, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return
        if self.master.grad is None:
            self.master.grad = gradient.float()
        else:
            self.master.grad.add_(gradient)


def _narrowed_parameters(model: Any) -> Iterator[tuple[str, Parameter]]:
    """Parameters in fp32 or bf16, but for those that transformers keeps in fp32 for the model."""
    kept = list(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    inside = re.compile("|".join(rf"(^|\.){re.escape(name)}($|\.)" for name in kept) or r"(?!)")
    for name, parameter in model.named_parameters():
        if parameter.dtype in {torch.float32, NARROW} and not inside.search(name):
            yield name, parameter
