"""The two counts of activations, on shapes of two layers: the report has them in full."""

from __future__ import annotations

import pytest
import torch

from benchmarks.memory.saved_tensors import saved_bytes
from benchmarks.memory.shapes import pairs, policy
from dpo_bench.model.pass_memory import measure_pass


@pytest.mark.parametrize("rank", [None, 16])
@pytest.mark.parametrize("shape", ["135M (SmolLM2)", "1B (Llama 3.2)", "8B (Llama 3)"])
def test_what_autograd_saves_is_what_the_plan_says(shape: str, rank: int | None) -> None:
    texts, backend = pairs(), policy(shape, rank, num_hidden_layers=3)
    indices = list(range(12))
    tokens = int(texts.sizes[indices].sum())
    saved = saved_bytes(backend, texts, indices, checkpointing=False, dtype=torch.bfloat16)
    plan = measure_pass(backend, texts, tokens // 2, torch.bfloat16, "cuda")
    assert plan is not None
    assert plan.kept.at(tokens) == pytest.approx(saved, rel=0.1)
