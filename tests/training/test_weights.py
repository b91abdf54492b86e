"""Weights that are kept, put back and mixed, in models with every kind of sharing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpo_bench.errors import ConfigurationError
from dpo_bench.training.weights import (
    move_towards,
    require_mixable,
    trained_weights,
)


class Untied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.inner = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)


class Tied(Untied):
    """As GPT-2, Gemma and most small models are."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.embedding.weight


class TiedByMemory(Untied):
    """Two parameters over one memory, as older code ties them."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = nn.Parameter(self.embedding.weight.data)


class SeveralTies(Tied):
    """Three names of one matrix, two of another, one of them within submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(nn.Embedding(5, 3)), nn.Sequential(self.inner)
        self.encoder[0].weight = self.embedding.weight


class SharedSubmodule(Untied):
    """One layer under two names, as in models that repeat it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([self.inner, self.inner, nn.Linear(3, 3)])


class WithBuffers(Tied):
    """Saved and unsaved floating-point buffers, a counter and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("scale", torch.rand(3))
        self.register_buffer("frequencies", torch.rand(3), persistent=False)
        self.register_buffer("mask", torch.ones(3, dtype=torch.bool))


class Half(Tied):
    """A reference that is kept in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()


KINDS = [Untied, Tied, TiedByMemory, SeveralTies, SharedSubmodule, WithBuffers]


def model(kind: Callable[[], Any], seed: int) -> Any:
    torch.manual_seed(seed)
    made = kind()
    for buffer in made.buffers():
        if buffer.is_floating_point():
            nn.init.uniform_(buffer)
    return made


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights.items()}


@pytest.mark.parametrize("rate", [0.6, 0.1, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_becomes_the_weighted_mean(kind: Callable[[], Any], rate: float) -> None:
    ours, theirs = model(kind, 0), model(kind, 1)
    before, other = copied(ours.state_dict()), copied(theirs.state_dict())
    move_towards(ours, theirs, rate)
    for name, value in ours.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, rate * other[name] + (1 - rate) * before[name])
        else:
            assert torch.equal(value, before[name])
    assert all(torch.equal(value, other[name]) for name, value in theirs.state_dict().items())


def test_what_follows_from_the_rest_is_not_mixed() -> None:
    """Such as rotary frequencies, which some models fit to the last text that they read."""
    ours, theirs = model(WithBuffers, 0), model(WithBuffers, 1)
    before = ours.frequencies.clone()
    theirs.norm.num_batches_tracked += 7
    move_towards(ours, theirs, 0.6)
    assert torch.equal(ours.frequencies, before)
    assert ours.norm.num_batches_tracked == 0


def test_ties_and_the_identity_of_parameters_stay() -> None:
    ours, theirs = model(SeveralTies, 0), model(SeveralTies, 1)
    parameters = [id(parameter) for parameter in ours.parameters()]
    move_towards(ours, theirs, 0.6)
    assert [id(parameter) for parameter in ours.parameters()] == parameters
    assert ours.head.weight is ours.embedding.weight is ours.encoder[0].weight


def test_a_reference_of_less_precision_keeps_it() -> None:
    ours, theirs = model(Half, 0), model(Tied, 1)
    expected = 0.6 * theirs.head.weight.detach() + 0.4 * ours.head.weight.detach().float()
    move_towards(ours, theirs, 0.6)
    assert ours.head.weight.dtype == torch.bfloat16
    torch.testing.assert_close(ours.head.weight.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_one_kind_can_be_mixed_whatever_they_hold(kind: Callable[[], Any]) -> None:
    require_mixable(model(kind, 0), model(kind, 1))
    require_mixable(copy.deepcopy(model(kind, 0)), model(kind, 0))


def test_an_untied_model_follows_a_tied_one() -> None:
    ours, theirs = model(Untied, 0), model(Tied, 1)
    require_mixable(ours, theirs)
    before = ours.head.weight.clone()
    move_towards(ours, theirs, 0.6)
    torch.testing.assert_close(ours.head.weight, 0.6 * theirs.embedding.weight + 0.4 * before)


@pytest.mark.parametrize(
    ("one", "other", "weight"),
    [
        (Tied, Untied, "embedding.weight"),
        (Untied, SharedSubmodule, "layers.0.bias"),
        (Tied, lambda: nn.Linear(3, 3), "bias"),
        (lambda: nn.Linear(3, 3), lambda: nn.Linear(3, 4), "bias"),
    ],
)
def test_models_that_cannot_be_mixed_are_refused(one: Any, other: Any, weight: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"and {weight} differs: give a --reference"):
        require_mixable(model(one, 0), model(other, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_put_back_bit_by_bit(kind: Callable[[], Any]) -> None:
    trained = model(kind, 0)
    kept, before = copied(trained_weights(trained)), copied(trained.state_dict())
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.5)
    for name, value in trained_weights(trained).items():
        value.copy_(kept[name])
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


@pytest.mark.parametrize("kind", [Tied, SeveralTies])
def test_a_frozen_tie_is_left_out_under_all_its_names(kind: Callable[[], Any]) -> None:
    trained = model(kind, 0)
    trained.embedding.requires_grad_(requires_grad=False)
    names = set(trained_weights(trained))
    assert not {"embedding.weight", "head.weight", "encoder.0.weight"} & names
