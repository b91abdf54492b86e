"""The weights that a run changes: all of a model, or its adapter alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def trained_weights(model: Any) -> dict[str, Tensor]:
    """A model's state by name, frozen parameters left out; not copied."""
    frozen = _frozen(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def restore_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy what `trained_weights` gave back into the model.

    Raises:
        ValueError: these are the weights of another model.
    """
    missing, unexpected = model.load_state_dict(weights, strict=False)
    wrong = {*unexpected, *missing} - _frozen(model)
    if wrong:
        raise ValueError(f"these weights belong to another model: {min(wrong)} differs")


def _frozen(model: Any) -> set[str]:
    parameters = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in parameters if not parameter.requires_grad}
