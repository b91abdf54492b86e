"""Real models and tokenizers small enough to be made on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tokenizer(folder: Path, texts: Iterable[str]) -> int:
    """Train a byte-level BPE with a chat template; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def save_model(folder: Path, kind: str, vocabulary: int, seed: int = 0, **options: Any) -> None:
    """Save a model of two tiny layers with random weights; kind is bloom, gpt2, llama or qwen2."""
    import torch
    from transformers import (
        BloomConfig,
        BloomForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    special: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        **special,
        **options,
    }
    model: Any
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "gpt2":
            shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256} | options
            config = GPT2Config(vocab_size=vocabulary, **shape, **special)
            model = GPT2LMHeadModel(config)
        elif kind == "bloom":
            sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 2}
            model = BloomForCausalLM(BloomConfig(vocab_size=vocabulary, **sizes, **special))
        elif kind == "llama":
            model = LlamaForCausalLM(LlamaConfig(**sizes))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    model.save_pretrained(folder)
