"""Tiny models of real architectures, with random weights, made on the spot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpo_bench.data.batches import Batch, pad_responses

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
"""Of a model whose heads share keys and values, wide enough for rounding to show."""
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
DECODER: dict[str, Any] = {
    **COMMON,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    # Weights of this size make attention sharp and logits far from zero, as in a trained model.
    "initializer_range": 0.3,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {**COMMON, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3},
    "llama": {**DECODER, "tie_word_embeddings": True},
    "qwen2": DECODER,
    "qwen3": DECODER,
    "gemma2": DECODER,  # caps its logits at 30
    "cohere": DECODER,  # scales its logits
    "granite": {**DECODER, "logits_scaling": 4.0},
    "opt": {
        **COMMON,
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 8,  # another width behind the last layer
        "max_position_embeddings": 64,
        "init_std": 0.3,
    },
    "mistral": {**DECODER, "sliding_window": None},
    "bloom": {**COMMON, "hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3},
}
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {
        **COMMON,
        "hidden_size": 16,
        "state_size": 4,
        "num_hidden_layers": 2,
        "initializer_range": 0.3,
    },
}
OWN_HEAD = {"gemma2", "cohere", "granite"}
"""Models that cap or scale their logits."""
PADDED_ONLY = {"bloom", "gemma2"}
"""Models whose attention is biased by position or soft-capped. It is computed by transformers' own
code, which rounds its softmax to fp32 in a model of fp64 too."""


def rounding(architecture: str, exact: float) -> float:
    """How close values in fp64 are that came by different ways: ``exact``, but for such models."""
    return 1e-5 if architecture in PADDED_ONLY else exact


def tiny_model(architecture: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A model of a transformers model type, in eval mode, without dropout."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from dpo_bench.model.load import _without_dropout

    config = AutoConfig.for_model(
        architecture, **{**(ARCHITECTURES | RECURRENT)[architecture], **changes}
    )
    _without_dropout(config)
    config.use_cache = False
    factory: Any = AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = factory.from_config(config, dtype=dtype)
    return model.eval()


def with_exact_norms(model: Any) -> Any:
    """The same model, but its RMS norms do not round to fp32 on the way, as transformers' do."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if "RMSNorm" in type(child).__name__:
                width, epsilon = child.weight.shape[0], child.variance_epsilon
                norm = torch.nn.RMSNorm(width, eps=epsilon, dtype=child.weight.dtype)
                norm.weight = child.weight
                setattr(parent, name, norm)
    return model


def random_batch(rows: int = 4, seed: int = 0) -> Batch:
    """Rows of unlike lengths: prompts of 2 to 6 tokens, responses of 1 to 7."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()

    return pad_responses([ids(2, 6) for _ in range(rows)], [ids(1, 7) for _ in range(rows)])


def naive_logps(model: Any, batch: Batch) -> Tensor:
    """Each row by itself, unpadded: log_softmax over the whole sequence, then the targets."""
    found = []
    for row in range(len(batch.lengths)):
        mine = batch.row == row
        positions, targets = batch.position[mine], batch.target[mine]
        end = int(positions[-1]) + 2
        logps = torch.log_softmax(model(input_ids=batch.input_ids[row : row + 1, :end]).logits, -1)
        found.append(logps[0, positions, targets])
    return torch.cat(found)
