"""Compiled layers: one graph for all of a kind, without breaks, and the same bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from dpo_bench.experiment.config import LoRA
from dpo_bench.model.activation_checkpointing import checkpoint_layers, decoder_layers
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.compile_layers import compile_alike, compile_layers
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.logprobs import token_logps
from dpo_bench.model.lora import reset_adapter, with_adapter
from dpo_bench.model.narrow_weights import narrow_weights
from tests.model.architectures import SIZES, tiny_model
from tests.model.test_fixed_passes import PAIRS

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
"""What dynamo does to see whether a tensor has a gradient."""
COMPILER = "aot_eager"
"""Traces forward and backward as a GPU's compiler would have them, and computes as torch does."""
PASSES = ([0, 1, 2], [4, 5], [3])


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def narrowed(*, lora: bool = False) -> LogprobBackend:
    backend = choose_backend(tiny_model("llama", torch.float32, **SIZES), "bf16", 60)
    if lora:
        narrow_weights(backend)
        backend = with_adapter(backend, LoRA(rank=2), "base")
    narrow_weights(backend)
    if lora:
        with backend.full_precision():
            reset_adapter(backend.model, 0)
            for name, one in backend.model.named_parameters():
                if ".lora_B." in name:
                    one.data.fill_(0.01)
    return backend


def results(backend: LogprobBackend) -> list[Tensor]:
    """Log-probs of several passes and the gradients of an uneven sum of each."""
    found = []
    for indices in PASSES:
        batch = backend.batch(PAIRS, indices)
        with torch.no_grad():
            found.append(token_logps(backend, batch))
        logps = token_logps(backend, batch)
        (logps * torch.linspace(-1, 2, len(logps))).sum().backward()
        found.append(logps.detach())
        for master in backend.optimized().values():
            if master.grad is not None:
                found.append(master.grad)
                master.grad = None
    return found


@pytest.mark.parametrize("lora", [False, True])
def test_layers_are_compiled_once_without_breaks_to_the_same_bits(lora: bool) -> None:
    backend = narrowed(lora=lora)
    expected = results(backend)

    compile_layers(backend, COMPILER)

    assert backend.compiled is not None
    assert "compiled" in backend.numerics
    found = results(backend)
    assert len(found) == len(expected) > 3 * 10
    for ours, plain in zip(found, expected, strict=True):
        assert torch.equal(ours, plain)
    assert not counters["graph_break"]
    # One without gradient and one with, for all layers and passes; under an adapter, nothing that
    # the first layer is given has a gradient.
    assert counters["stats"]["unique_graphs"] == 2 + lora


def test_a_gradient_is_taken_by_the_pack_of_its_own_pass() -> None:
    """Also when other packs have been open since, and the batch is gone."""
    backend = narrowed()
    (expected,) = torch.autograd.grad(
        token_logps(backend, backend.batch(PAIRS, [0, 1])).sum(),
        [backend.model.get_input_embeddings().weight],
    )
    compile_layers(backend, COMPILER)
    first = token_logps(backend, backend.batch(PAIRS, [0, 1])).sum()
    token_logps(backend, backend.batch(PAIRS, [4, 5, 6]))
    (found,) = torch.autograd.grad(first, [backend.model.get_input_embeddings().weight])
    assert torch.equal(found, expected)


def test_passes_of_any_size_are_not_compiled() -> None:
    backend = choose_backend(tiny_model("llama", torch.float32, **SIZES), "fp32", 60)
    compile_layers(backend, COMPILER)
    assert backend.compiled is None


def test_layers_that_cannot_be_compiled_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    backend = narrowed()
    expected = results(backend)
    layer = decoder_layers(backend.model)[1]
    layer.register_forward_pre_hook(lambda *_: torch._dynamo.graph_break())
    with caplog.at_level("INFO"):
        compile_layers(backend, COMPILER)
    assert backend.compiled is None
    assert "LlamaForCausalLM are not compiled" in caplog.text
    for ours, plain in zip(results(backend), expected, strict=True):
        assert torch.equal(ours, plain)


def test_models_that_are_compared_are_compiled_both_or_neither() -> None:
    first, second = narrowed(), narrowed()
    compile_alike([first, second], COMPILER)
    assert first.compiled is not None
    assert second.compiled is not None
    checkpoint_layers(second.model)
    compile_alike([first, second], COMPILER)
    assert [one.compiled for one in (first, second)] == [None, None]


def test_sampling_calls_the_layers_as_they_are() -> None:
    backend = narrowed()
    compile_layers(backend, COMPILER)
    before = counters["stats"]["unique_graphs"]
    for length in range(3, 9):
        with torch.inference_mode():
            backend.last_states({"input_ids": torch.ones(2, length, dtype=torch.long)})
    assert counters["stats"]["unique_graphs"] == before
