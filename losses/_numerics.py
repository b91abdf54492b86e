"""Exponentials that cannot overflow."""

from __future__ import annotations

from torch import Tensor, exp, expm1
from torch.nn.functional import relu

LIMIT = 20.0
"""Exponents beyond this follow the tangent: e^20 = 5e8, whose square a float32 still holds."""


def beyond_limit(x: Tensor) -> Tensor:
    """Where `exp_or_tangent` is no exponential, as truth values."""
    return x > LIMIT


def exp_or_tangent(x: Tensor) -> Tensor:
    """e^x up to x = 20, from there on its tangent e^20 (1 + x - 20): convex, value and slope agree.

    >>> import torch
    >>> exp_or_tangent(torch.tensor([0.0, 20.0, 10_000.0]))
    tensor([1.0000e+00, 4.8517e+08, 4.8424e+12])
    """
    return exp(x.clamp(max=LIMIT)) * (1 + relu(x - LIMIT))


def expm1_or_tangent(x: Tensor) -> Tensor:
    """e^x - 1, continued like `exp_or_tangent`, exact to rounding for small x."""
    return expm1(x.clamp(max=LIMIT)) + exp(x.clamp(max=LIMIT)) * relu(x - LIMIT)
