"""A model's modules once more, over other tensors: without a second copy of its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import Parameter


def copy_over(model: Any, tensor_of: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a model's modules that holds another tensor for each; tied ones stay one.

    Args:
        model: is left as it is.
        tensor_of: gives the tensor in the place of a parameter or buffer.
    """
    memo: dict[int, Any] = {}
    for one in (*model.parameters(), *model.buffers()):
        other = tensor_of(one)
        is_weight = isinstance(one, Parameter)
        memo[id(one)] = Parameter(other, one.requires_grad) if is_weight else other
    return copy.deepcopy(model, memo)
