"""Tiny models of any architecture, and the pairs that they are tried on."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpo_bench.model.loading import silent_transformers

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|pad|>", "<|bos|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = (
    *("a", "blue", "dog", "film", "good", "hated", "it", "liked", "long", "maybe", "no", "not"),
    *("sea", "she", "the", "very", "was", "yes"),
)
MOST_PARAMETERS = 8_000_000
WINDOW, LONGEST = 9, 50
"""Attention windows are this short, texts this long: both in tokens."""

SIZES: Mapping[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "embedding_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "lru_width", "attention_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_inner"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("state_size", "mamba_d_state", "mamba_n_heads", "mamba_d_head"), 8),
    "mamba_n_groups": 1,
    "mamba_d_ssm": 64,
    "rotary_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    "sliding_window": WINDOW,
    "attention_window_size": WINDOW,
    **dict.fromkeys(("depth", "attention_heads", "encoder_num_layers"), 2),
    **dict.fromkeys(("out_hidden_size", "text_hidden_size", "output_dim", "vision_output_dim"), 32),
    **dict.fromkeys(("projector_input_dim", "projector_output_dim", "qformer_hidden_size"), 32),
    **dict.fromkeys(("downsample_hidden_size", "text_embed_dim"), 32),
    **dict.fromkeys(("alignment_intermediate_size", "projection_dim", "latent_channels"), 32),
    **dict.fromkeys(("num_embeddings", "codebook_size"), 64),
    **dict.fromkeys(("image_token_embed_dim", "hidden_dim"), 32),
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
"""What configurations call their sizes; each takes those that it knows."""
MLA = (
    *("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"),
    *(
        "glm_moe_dsa",
        "kimi_k25",
        "minicpm3",
        "mistral4",
        "mistral_large4",
        "sarvam_mla",
        "youtu",
        "dots3_note",
        "dots3_note_text",
    ),
)
"""Architectures whose keys have as many heads as their queries."""
SECTIONED = (
    *("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni_thinker", "paddleocr_vl", "glm46v", "glm4v"),
    *("glmga", "glm_ocr"),
)
"""Those whose rotary positions have sections for time, height and width."""


def sections(*sizes: int) -> dict[str, Any]:
    """Rotary positions in sections of these sizes."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sizes)}
    return {"text_config": {"rope_parameters": rope}}


FURTHER: Mapping[str, Mapping[str, Any]] = {
    **{name: sections(1, 1, 2) for name in SECTIONED},
    "glm4v_moe": sections(1, 1, 0),
    **{
        name: {
            "vocabulary_map": {"<image>": 4},
            "vq_config": {"base_channels": 32, "channel_multiplier": [1, 1], "embed_dim": 4},
        }
        for name in ("emu3", "chameleon")
    },
    "janus": {"vq_config": {"base_channels": 32, "channel_multiplier": [1, 1]}},
    "gemma4": {"text_config": {"vocab_size_per_layer_input": 400}},
    "cosmos3_edge": sections(1, 1, 2),
    "hy_v4_vl": sections(1, 1, 2),
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "mllama": {"text_config": {"cross_attention_layers": [1], "num_hidden_layers": 3}},
    "florence2": {"vision_config": {"embed_dim": [8, 8, 8, 8], "num_heads": [2, 2, 2, 2]}},
    **{name: {"num_key_value_heads": 4} for name in MLA},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8, "expand": 2},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"]},
    "ernie4_5_moe": {"moe_k": 2},
    "kimi_linear": {"num_key_value_heads": 4},
    "dots1": {"n_shared_experts": 1},
    "reformer": {"is_decoder": True},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "bert": {"is_decoder": True},
    "llama4_text": {"attention_chunk_size": 16},
}
"""What some architectures want besides."""
NO_TEXT_ALONE = (
    *(
        "blip",
        "blip-2",
        "idefics",
        "instructblip",
        "instructblipvideo",
        "kosmos-2",
        "llama4",
        "pix2struct",
    ),
    *("pp_formulanet", "udop", "vision-encoder-decoder", "voxtral_realtime"),
)
"""Those whose whole model reads no text without an image or a sound; the others must run."""
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "rope_theta": 10000.0,
            }
        },
    ),
    "llama dynamic rope": (
        "llama",
        {
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        },
    ),
    "phi3 longrope": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 16,
            },
            "original_max_position_embeddings": 16,
        },
    ),
    "mistral window": ("mistral", {}),
    "gpt2 16 positions": ("gpt2", {"n_positions": 16}),
    "falcon alibi": ("falcon", {"alibi": True}),
    "mixtral jitter": ("mixtral", {"router_jitter_noise": 0.1}),
    "lfm2 weak convolutions": ("lfm2", {"initializer_range": 0.02}),
}
"""Further settings of an architecture that change how its texts may be computed."""


def configuration(kind: str, vocabulary: int, **more: Any) -> Any:
    """The configuration of a tiny model: of this ``model_type``, or of a variant."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind, variant = VARIANTS.get(kind, (kind, {}))
    build: Any = CONFIG_MAPPING[kind]
    further = {**FURTHER.get(kind, {}), **variant, **more}
    wanted = {**SIZES, "vocab_size": vocabulary, **further}

    def known(to: Any) -> dict[str, Any]:
        parameters = inspect.signature(to.__init__).parameters
        return {name: value for name, value in wanted.items() if name in parameters}

    parts = getattr(build, "sub_configs", {})
    own = {name: value for name, value in known(build).items() if name not in parts}
    config = build(**own)
    if config.get_text_config() is not config:
        # Sizes that it knows beside those of its text are another's.
        own = {name: value for name, value in own.items() if name in further}
    if parts:
        # A model of several kinds of input: each part has a configuration of its own.
        config = build(
            **own,
            **{
                name: known(type(part)) | further.get(name, {})
                for name in parts
                if (part := getattr(config, name, None)) is not None
            },
        )
    return config


def save_model(folder: Path, kind: str, seed: int = 0, **more: Any) -> None:
    """A tiny model with a tokenizer: weights so large that attention is sharp.

    Args:
        folder: is made.
        kind: a ``model_type`` of transformers, or a variant.
        seed: of the weights.
        more: further settings of the configuration.
    """
    vocabulary = save_tokenizer(folder)
    build = _whole(kind)
    config = configuration(kind, vocabulary, **more)
    small = getattr(config, "initializer_range", 1.0) < SIZES["initializer_range"]
    with torch.device("meta"):
        size = build.from_config(config).num_parameters()
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters: its sizes have names of their own")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build.from_config(configuration(kind, vocabulary, **more))
        with torch.no_grad():
            for weight in model.parameters():
                if not small and weight.ndim > 1 and 0 < (size := float(weight.std())) < 0.1:
                    weight.mul_(0.15 / size)
        if kind not in NO_TEXT_ALONE:
            model.eval()(input_ids=torch.tensor([[5, 6, 7, 8, 9]]), use_cache=False)
    model.generation_config.eos_token_id = 2
    with silent_transformers():
        model.save_pretrained(folder)


def _whole(kind: str) -> Any:
    """What makes a model of this type with all of its inputs; else one of texts."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    kind, _ = VARIANTS.get(kind, (kind, {}))
    several = kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    return AutoModelForMultimodalLM if several else AutoModelForCausalLM


def save_tokenizer(folder: Path) -> int:
    """A byte-level BPE with a chat template whose turns end with another token than EOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        additional_special_tokens=list(SPECIAL[3:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def write_pairs(file: Path, *, chat: bool, longest: int = LONGEST) -> None:
    """Twelve pairs of unlike lengths, the first as long as any text may be, in tokens."""
    generator = np.random.default_rng(7)

    def text(words: int) -> str:
        return " " + " ".join(generator.choice(WORDS, words))

    rows: list[dict[str, Any]] = []
    for row in range(12):
        prompt, lengths = text(2 + row), (3 + row % 4, 6 - row % 3)
        if row == 0:
            prompt, lengths = text(12), (longest - 14, 5)
        chosen, rejected = text(lengths[0]), text(lengths[1])
        if chat:
            rows.append(
                {
                    "prompt": [{"role": "user", "content": prompt.strip()}],
                    "chosen": [{"role": "assistant", "content": chosen.strip()}],
                    "rejected": [{"role": "assistant", "content": rejected.strip()}],
                }
            )
        else:
            rows.append({"prompt": f"{row}{prompt}", "chosen": chosen, "rejected": rejected})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
