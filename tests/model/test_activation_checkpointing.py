"""What is computed again has the same bits as what would have been kept."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_bench.experiment.config import LoRA
from dpo_bench.model.activation_checkpointing import (
    checkpoint_layers,
    decoder_layers,
    keep_activations,
)
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.logprobs import token_logps
from dpo_bench.model.lora import reset_adapter, with_adapter
from tests.model.architectures import tiny_model
from tests.model.test_packed import PAIRS

ALL = ["gpt2", "llama", "qwen2", "qwen3", "opt", "cohere", "granite", "bloom", "mistral", "mamba"]


def gradients(backend: LogprobBackend) -> list[Tensor]:
    """The loss's value and the gradient of every weight that is trained."""
    batch = backend.batch(PAIRS, range(len(PAIRS)))
    loss = token_logps(backend, batch).square().mean()
    trained = [one for one in backend.model.parameters() if one.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return [loss.detach(), *(one for one in found if one is not None)]


def saved_elements(backend: LogprobBackend) -> int:
    """Numbers that a forward pass leaves for the backward pass, weights left out."""
    weights = {one.data_ptr() for one in backend.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = backend.states(backend.batch(PAIRS, range(len(PAIRS))))
    assert states.requires_grad
    return sum(kept.values())


def assert_same_bits(backend: LogprobBackend, layers: int) -> None:
    kept, elements = gradients(backend), saved_elements(backend)
    assert checkpoint_layers(backend.model) == layers
    again, fewer = gradients(backend), saved_elements(backend)
    assert fewer < elements / 2
    assert len(kept) > 1
    for one, other in zip(kept, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("architecture", ALL)
def test_losses_and_gradients_keep_their_bits(architecture: str, packs: bool) -> None:
    model = tiny_model(architecture, torch.float32)
    backend = choose_backend(model, longest=24)
    if packs and not backend.packs:
        pytest.skip("is never packed")
    backend.packs = packs
    assert_same_bits(backend, layers=model.config.num_hidden_layers)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_or_not(tied: bool) -> None:
    model = tiny_model("llama", torch.float32, tie_word_embeddings=tied)
    assert_same_bits(choose_backend(model, longest=24), layers=model.config.num_hidden_layers)


@pytest.mark.parametrize("packs", [True, False])
def test_an_adapter_and_not_the_base_below_it(packs: bool) -> None:
    base = choose_backend(tiny_model("llama", torch.float32), longest=24)
    base.packs = packs
    policy = with_adapter(base, LoRA(rank=4), "somewhere")
    reset_adapter(policy.model, seed=0)
    assert_same_bits(policy, layers=base.model.config.num_hidden_layers)
    assert not any("forward" in vars(layer) for layer in decoder_layers(base.model))


def test_bf16_keeps_its_bits_too() -> None:
    backend = choose_backend(tiny_model("llama", torch.float32), "bf16", longest=24)
    assert_same_bits(backend, layers=backend.model.config.num_hidden_layers)


def test_the_backward_pass_may_run_in_another_thread_as_on_a_gpu() -> None:
    backend = choose_backend(tiny_model("llama", torch.float32), longest=24)
    expected = gradients(backend)
    checkpoint_layers(backend.model)
    batch = backend.batch(PAIRS, range(len(PAIRS)))
    loss = token_logps(backend, batch).square().mean()
    found: list[Tensor] = []

    def backward() -> None:
        found.extend(torch.autograd.grad(loss, list(backend.model.parameters())))

    thread = threading.Thread(target=backward)
    thread.start()
    thread.join()
    for one, other in zip(expected[1:], found, strict=True):
        assert torch.equal(one, other)


def test_it_can_be_taken_back_and_stays_one_when_asked_for_twice() -> None:
    backend = choose_backend(tiny_model("llama", torch.float32), longest=24)
    elements = saved_elements(backend)
    checkpoint_layers(backend.model)
    fewer = saved_elements(backend)
    checkpoint_layers(backend.model)
    assert saved_elements(backend) == fewer < elements
    keep_activations(backend.model)
    assert saved_elements(backend) == elements
    assert not any("forward" in vars(layer) for layer in decoder_layers(backend.model))


def test_layers_of_a_model_of_its_own_code_are_found_by_their_size() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
            self.blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(3)])

    model: Any = Own()
    assert decoder_layers(model) == list(model.blocks)
    assert decoder_layers(torch.nn.Linear(2, 2)) == []
    assert checkpoint_layers(torch.nn.Linear(2, 2)) == 0
