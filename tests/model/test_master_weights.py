"""Weights in bf16 and their masters in fp32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_bench.experiment.config import LoRA
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.logprobs import token_logps
from dpo_bench.model.lora import reset_adapter, with_adapter
from dpo_bench.model.master_weights import MasterWeights
from dpo_bench.model.narrow_weights import narrow_weights
from tests.model.architectures import ARCHITECTURES, random_batch, tiny_model


def narrowed(architecture: str = "llama", **changes: Any) -> LogprobBackend:
    backend = choose_backend(tiny_model(architecture, torch.float32, **changes), "bf16")
    narrow_weights(backend)
    return backend


def values(model: Any) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probs_are_as_close_to_fp32_as_autocasts(architecture: str) -> None:
    batch = random_batch()
    exact = tiny_model(architecture, torch.float32)
    with torch.no_grad():
        expected = token_logps(choose_backend(exact), batch)
        usual = token_logps(choose_backend(exact, "bf16"), batch) - expected
        backend = narrowed(architecture)
        found = token_logps(backend, batch)
    assert backend.masters is not None
    assert {one.dtype for one in backend.model.parameters()} == {torch.bfloat16}
    assert found.dtype == torch.float32
    assert (found - expected).square().mean().sqrt() < 4 * usual.square().mean().sqrt()


def test_a_gradient_is_added_to_the_masters_in_fp32_and_freed() -> None:
    """So many small gradients in bf16 would not add up: 256 + 1 = 256 there."""
    model = torch.nn.Linear(1, 1, bias=False)
    masters = MasterWeights(model)
    for size in (256.0, 1.0, 1.0, 1.0):
        (model(torch.ones(1, 1, dtype=torch.bfloat16)) * size).sum().backward()
        assert model.weight.grad is None
    (master,) = masters.masters.values()
    assert master.grad is not None
    assert master.grad.tolist() == [[259.0]]


def test_weights_are_what_their_masters_round_to() -> None:
    backend = narrowed()
    assert backend.masters is not None
    with torch.no_grad():
        for master in backend.masters.masters.values():
            master.add_(0.01234)
    backend.masters.copy_back()
    for name, one in backend.model.named_parameters():
        assert torch.equal(one, backend.masters.masters[name].bfloat16())


@pytest.mark.parametrize("tied", [True, False])
def test_full_precision_shows_the_masters_and_takes_what_is_written(tied: bool) -> None:
    original = values(tiny_model("llama", torch.float32, tie_word_embeddings=tied))
    backend = narrowed(tie_word_embeddings=tied)
    with backend.full_precision():
        for name, one in backend.model.named_parameters():
            assert torch.equal(one, original[name])
        backend.model.load_state_dict(
            {name: 1.1 * value for name, value in original.items()}, strict=not tied
        )
    for name, one in backend.model.named_parameters():
        assert torch.equal(one, (1.1 * original[name]).bfloat16())
    with backend.full_precision():
        for name, one in backend.model.named_parameters():
            assert torch.equal(one, 1.1 * original[name])


def test_masters_are_exact_where_the_weights_were_saved_in_bf16() -> None:
    model = tiny_model("llama", torch.float32)
    assert not MasterWeights(copy.deepcopy(model)).exact
    with torch.no_grad():
        for one in model.parameters():
            one.copy_(one.bfloat16())
    assert MasterWeights(model).exact


def test_frozen_weights_have_no_masters_and_an_adapter_has_its_own() -> None:
    base = choose_backend(tiny_model("llama", torch.float32), "bf16")
    base.model.requires_grad_(requires_grad=False)
    narrow_weights(base)
    assert base.masters is not None
    assert not base.masters.masters
    adapted = with_adapter(base, LoRA(rank=2), "base")
    narrow_weights(adapted)
    assert adapted.masters is not None
    assert len(adapted.masters.masters) == 2 * 2 * 7  # A and B of all layers' linear ones
    assert all(".lora_" in name for name in adapted.masters.masters)
    with adapted.full_precision():
        reset_adapter(adapted.model, 3)
    exact = with_adapter(choose_backend(tiny_model("llama", torch.float32)), LoRA(rank=2), "base")
    reset_adapter(exact.model, 3)
    drawn = values(exact.model)
    for name, master in adapted.masters.masters.items():
        assert torch.equal(master, drawn[name])
    batch = random_batch()
    with torch.no_grad():
        assert torch.equal(token_logps(adapted, batch), token_logps(base, batch))


class OneInFp32(torch.nn.Module):
    """A norm whose weight is made in fp32, whatever the model is in: as mixed code does."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.inner(hidden)
        return normed * torch.ones(1, hidden.shape[-1])


def test_a_model_that_mixes_precisions_keeps_autocast(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("llama", torch.float32)
    layer = model.model.layers[0]
    layer.input_layernorm = OneInFp32(layer.input_layernorm)
    before = values(model)
    backend = choose_backend(model, "bf16")
    with caplog.at_level("INFO"):
        narrow_weights(backend)
    assert backend.masters is None
    assert "keeps its weights in fp32" in caplog.text
    for name, one in model.named_parameters():
        assert torch.equal(one, before[name])
    token_logps(backend, random_batch()).sum().backward()
    assert all(one.grad is not None for one in model.parameters())


def test_what_the_models_code_keeps_in_fp32_stays() -> None:
    model = tiny_model("llama", torch.float32)
    model._keep_in_fp32_modules_strict = {"input_layernorm"}
    MasterWeights(model)
    for name, one in model.named_parameters():
        kept = "input_layernorm" in name
        assert one.dtype == (torch.float32 if kept else torch.bfloat16)


def test_fp32_is_left_alone() -> None:
    backend = choose_backend(tiny_model("llama", torch.float32))
    narrow_weights(backend)
    assert backend.masters is None
    assert backend.model.dtype == torch.float32
