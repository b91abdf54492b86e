"""The weights that a run changes: all of a model, or its adapter alone.

A state dict lists tied weights once per name. To read or to overwrite them that often does no harm;
to change them in place by what they are does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpo_bench.errors import ConfigurationError


def trained_weights(model: Any) -> dict[str, Tensor]:
    """A model's state by name, frozen parameters left out; not copied."""
    frozen = _frozen(model)
    return {name: value for name, value in all_weights(model).items() if name not in frozen}


def all_weights(model: Any) -> dict[str, Tensor]:
    """A model's state, tied weights by the first of their names; not copied."""
    named = {id(value): name for name, value in reversed(_state(model).items())}
    return {
        name: value.detach() for name, value in _state(model).items() if named[id(value)] == name
    }


def _state(model: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    return state


def move_towards(model: Any, other: Any, rate: float) -> None:
    """Make a model's weights rate x the other model's + (1 - rate) x its own.

    Floating-point buffers that are saved with a model go along with its parameters. Integers, and
    buffers that are not saved because they follow from the rest, stay as they are.

    Args:
        model: is changed in place.
        other: has the same weights by name, of any precision and on any device.
        rate: share of the other model, in (0, 1].
    """
    ours, theirs = model.state_dict(), other.state_dict()
    with torch.no_grad():
        for names in _by_memory(ours):
            # All of what lies in one place is read before any of it is written.
            moved = {
                name: ours[name].lerp(theirs[name].to(ours[name]), rate)
                for name in names
                if ours[name].is_floating_point()
            }
            for name, value in moved.items():
                ours[name].copy_(value)


def require_mixable(model: Any, other: Any) -> None:
    """Refuse models of which the one cannot be moved towards the other.

    Raises:
        ConfigurationError: names or shapes differ, or weights that are one in the first model are
            several in the other; the message names one of them.
    """
    ours, theirs = model.state_dict(), other.state_dict()
    shapes = {(name, value.shape) for name, value in ours.items()}
    differing = {name for name, _ in shapes ^ {(n, value.shape) for n, value in theirs.items()}}
    ties = _by_memory(theirs)
    for names in _by_memory(ours):
        if not any(names <= tied for tied in ties):
            differing |= names
    if differing:
        raise ConfigurationError(
            "training.reference_sync_steps mixes policy and reference weight by weight, and "
            f"{min(differing)} differs: give a --reference of the policy's architecture."
        )


def _by_memory(weights: Mapping[str, Tensor]) -> list[frozenset[str]]:
    """The names of the weights, those together that begin at the same place in memory."""
    groups: dict[int, set[str]] = {}
    for name, value in weights.items():
        groups.setdefault(value.data_ptr(), set()).add(name)
    return [frozenset(names) for names in groups.values()]


def _frozen(model: Any) -> set[str]:
    parameters = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in parameters if not parameter.requires_grad}
