"""Causal attention of texts of any lengths that lie one after another, by torch's own kernel.

``torch.nn.attention.varlen`` exists on CUDA alone, in half precision alone, and its arguments have
changed from version to version: which it has is looked up.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor


def causal(  # noqa: PLR0917  # as scaled_dot_product_attention has them
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float | None
) -> Tensor:
    """Attention of each token to itself and what is before it in its text.

    Args:
        query: shape [slot, head, width].
        key: shape [slot, head or fewer, width].
        value: likewise.
        starts: first slot of each text and the end of the last; int32, shape [text + 1].
        longest: slots of the longest text.
        scale: of the products of queries and keys; None: 1 / sqrt(width).

    Returns:
        shape [slot, head, width].

    Raises:
        NotImplementedError: this torch has no such kernel, or not with such arguments.
    """
    function, options = _kernel()
    accepted = inspect.signature(function).parameters
    if scale is not None and abs(scale * query.shape[-1] ** 0.5 - 1) > 1e-6:  # rounding
        if "scale" not in accepted:
            raise NotImplementedError("varlen_attn takes no scale in this version of torch")
        options = {**options, "scale": scale}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in accepted:
        options = {**options, "enable_gqa": True}
    elif groups > 1:
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    found: Tensor = function(query, key, value, starts, starts, longest, longest, **options)
    return found


@functools.cache
def _kernel() -> tuple[Callable[..., Any], dict[str, Any]]:
    """The kernel, and what makes it causal."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        raise NotImplementedError("this version of torch has no varlen_attn") from None
    accepted = inspect.signature(varlen_attn).parameters
    if "is_causal" in accepted:
        return varlen_attn, {"is_causal": True}
    if "window_size" in accepted:
        return varlen_attn, {"window_size": (-1, 0)}
    raise NotImplementedError("varlen_attn cannot be made causal in this version of torch")
