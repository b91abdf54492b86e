"""Models by their shapes alone, and pairs by their lengths alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.experiment.config import LoRA
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.lora import with_adapter
from dpo_bench.model.pass_memory import skeleton_backend

SHAPES: dict[str, dict[str, Any]] = {
    "135M (SmolLM2)": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "1B (Llama 3.2)": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "8B (Llama 3)": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "70B (Llama 3)": {
        "vocab_size": 128256,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
PROMPT, RESPONSE, LONGEST = 120, 300, 2048
"""Median tokens of a prompt and of a response, and tokens of the longest pair, about as in
UltraFeedback; the lengths are drawn from a log-normal distribution."""


def model(shape: str, **changes: Any) -> Any:
    """A model without weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        found = LlamaForCausalLM(LlamaConfig(**{**SHAPES[shape], **changes})).eval()
    found.config.use_cache = False
    return found


def policy(shape: str, rank: int | None, precision: str = "bf16", **changes: Any) -> LogprobBackend:
    """Its backend, with an adapter of some rank on all linear layers or trained whole."""
    backend = skeleton_backend(model(shape, **changes), precision)
    return backend if rank is None else with_adapter(backend, LoRA(rank=rank), shape)


def pairs(count: int = 64, seed: int = 0) -> TokenizedPairs:
    """Pairs of drawn lengths, every token the same; the longest is as long as said."""
    generator = np.random.default_rng(seed)

    def lengths(median: int) -> list[int]:
        drawn = median * np.exp(generator.normal(0, 0.5, count))
        return [int(one) for one in np.clip(drawn, 8, (LONGEST - 1) // 3)]

    sides = [lengths(PROMPT), lengths(RESPONSE), lengths(RESPONSE)]
    first = [256, 896, 896]
    prompt, chosen, rejected = (
        Ragged.of([np.ones(size, np.int32) for size in (longest, *side)])
        for longest, side in zip(first, sides, strict=True)
    )
    return TokenizedPairs(prompt, chosen, rejected)
