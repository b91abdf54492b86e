"""What is measured without memory is what a real pass takes."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.experiment.config import LoRA
from dpo_bench.model.activation_checkpointing import checkpoint_layers
from dpo_bench.model.live_bytes import LiveBytes, tensor_bytes
from dpo_bench.model.logprob_backends import FullLogitsBackend, HiddenStateBackend, LogprobBackend
from dpo_bench.model.logprobs import token_logps
from dpo_bench.model.lora import with_adapter
from dpo_bench.model.pass_memory import (
    Linear,
    PassMemory,
    cached_bytes,
    measure_pass,
    skeleton_backend,
    weights_of,
)

VOCABULARY = 997


def llama(**options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **options})).eval()
    model.config.use_cache = False
    return model


def pairs_of(count: int = 24, seed: int = 0) -> TokenizedPairs:
    generator = np.random.default_rng(seed)

    def side(low: int, high: int) -> Ragged:
        lengths = generator.integers(low, high, count)
        return Ragged.of([generator.integers(0, 900, n).astype(np.int32) for n in lengths])

    return TokenizedPairs(side(20, 60), side(20, 90), side(20, 90))


PAIRS = pairs_of()


def allocated_peak(backend: LogprobBackend, indices: list[int]) -> int:
    """Bytes that the CPU's allocator had handed out at the worst moment of a pass, by its log."""
    batch = backend.batch(PAIRS, indices)
    for one in backend.model.parameters():
        one.grad = torch.zeros_like(one) if one.requires_grad else None
    gc.collect()
    # torch 2.11 warns of events of earlier cycles, of which there are none.
    kinds = [ProfilerActivity.CPU]
    with profile(activities=kinds, profile_memory=True, acc_events=True) as recorded:
        token_logps(backend, batch).sum().backward()
    now = peak = 0
    for event in _changes(recorded):
        now += event
        peak = max(peak, now)
    return peak


def _changes(recorded: Any) -> list[int]:
    events = [one for one in recorded.profiler.kineto_results.events() if one.name() == "[memory]"]
    return [one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("packs", [False, True])
def test_a_plan_on_a_skeleton_is_within_a_tenth_of_the_allocators_log(
    packs: bool, adapter: bool, checkpointing: bool
) -> None:
    with torch.device("meta"):
        empty: LogprobBackend = skeleton_backend(llama(), "fp32")
    real: LogprobBackend = HiddenStateBackend(llama())
    empty.packs = real.packs = packs
    if adapter:
        empty, real = (with_adapter(one, LoRA(rank=4), "x") for one in (empty, real))
    if checkpointing:
        checkpoint_layers(empty.model)
        checkpoint_layers(real.model)
    indices = list(range(len(PAIRS)))
    tokens = int(PAIRS.sizes.sum())

    # How much is padded depends on which texts meet; what is packed goes on as it began.
    plan = measure_pass(empty, PAIRS, tokens // 2 if packs else tokens)

    assert plan is not None
    share = plan.at(tokens) / allocated_peak(real, indices)
    # Of fakes transformers does not know that a mask would hide nothing, and makes one: padded
    # texts, which it would spare the mask, are planned with too much.
    assert 0.9 < share < (1.1 if packs else 1.25)


def test_fakes_and_real_tensors_take_the_same() -> None:
    real = HiddenStateBackend(llama(), packs=True)
    tokens = int(PAIRS.sizes.sum())
    plan = measure_pass(real, PAIRS, tokens)
    assert plan is not None
    for one in real.model.parameters():
        one.grad = torch.zeros_like(one)
    known = [*real.model.parameters(), *real.model.buffers()]
    live = LiveBytes([*known, *(one.grad for one in real.model.parameters())])
    batch = real.batch(PAIRS, range(len(PAIRS)))
    with live:
        states = real.states(batch)
        kept = live.now
        states.backward(torch.ones_like(states))
    assert plan.kept.at(tokens) == pytest.approx(kept, rel=0.02)
    assert plan.layers.at(tokens) == pytest.approx(live.peak, rel=0.02)


def test_half_as_wide_numbers_take_half() -> None:
    with torch.device("meta"):
        backend = skeleton_backend(llama(vocab_size=50), "fp32")
    wide = measure_pass(backend, PAIRS, 2000)
    narrow = measure_pass(backend, PAIRS, 2000, torch.bfloat16)
    assert wide is not None
    assert narrow is not None
    # Norms are computed in fp32 whatever the weights are.
    assert 0.45 < narrow.kept.at(2000) / wide.kept.at(2000) < 0.75


def test_the_cache_holds_keys_and_values_of_every_layer() -> None:
    with torch.device("meta"):
        backend = skeleton_backend(llama(), "fp32")
    cached = cached_bytes(backend)
    assert cached is not None
    assert cached.each == 2 * 6 * 2 * 16 * 4  # of 6 layers with 2 heads of 16 numbers in fp32
    assert cached.fixed == 0


def test_models_without_a_head_apart_are_measured_with_all_their_logits() -> None:
    model = llama()
    assert isinstance(skeleton_backend(model.model, "fp32"), FullLogitsBackend)


def test_a_model_whose_work_depends_on_values_is_not_measured() -> None:
    class Choosy(torch.nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return states if bool((states > 0).all()) else super().forward(states)

    model = llama()
    model.model.layers[0].mlp.down_proj = Choosy(256, 96)
    assert measure_pass(HiddenStateBackend(model, packs=True), PAIRS, 500) is None


def test_tokens_of_a_pass_are_the_inverse_of_its_bytes() -> None:
    one = PassMemory(kept=Linear(10, 2), layers=Linear(0, 5), logits=Linear(200, 0))
    assert one.at(50) == 310  # kept and logits
    assert one.at(100) == 500  # the layers
    for free in (230, 310, 500, 10**6):
        tokens = one.tokens(free)
        assert one.at(tokens) <= free < one.at(tokens + 1)
    assert one.tokens(100) == 0


def test_bytes_of_tensors_count_a_storage_once() -> None:
    row = torch.zeros(10)
    assert tensor_bytes([row, row[3:], row.view(2, 5)]) == 40
    model = llama(tie_word_embeddings=True)
    assert weights_of(model, trained=True) == model.num_parameters()
    assert weights_of(model, trained=False) == 0
