"""Reward models made on the spot, and their scores by plain transformers, a text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.architectures.models import configuration, save_tokenizer
from dpo_bench.model.loading import silent_transformers
from dpo_bench.storage import read_parquet

ENDED = "{prompt} {response}<|endoftext|>"
PLAIN = "{prompt} {response}"
LONG = "yes no sea dog film good very " * 12 + "{prompt} {response}"
"""Longer than 64 tokens."""
ROBERTA_LIMIT = 64
"""Of 66 positions, which begin behind the padding token's id."""


def save_all(folder: Path) -> None:
    """Make every reward model, by name."""
    save(folder / "padded", "llama")
    save(folder / "unpadded", "llama", without=("pad_token",))
    save(folder / "unpadded-gpt2", "gpt2", without=("pad_token",))
    save(folder / "endless", "llama", without=("pad_token", "eos_token"))
    save(folder / "bf16", "llama", dtype=torch.bfloat16)
    save(folder / "two-labels", "llama", labels=2)
    save(folder / "roberta", "roberta", max_position_embeddings=66, pad_token_id=1)
    change(save(folder / "nan-head", "llama"), nan=True)
    change(save(folder / "value-head", "llama"), rename="value_head.weight")


def save(
    folder: Path,
    kind: str,
    *,
    labels: int = 1,
    without: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> Path:
    """A tiny sequence classifier whose tokenizer lacks some special tokens."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    vocabulary = save_tokenizer(folder)
    reads: Any = AutoTokenizer
    tokenizer = reads.from_pretrained(folder)
    tokenizer.chat_template = None
    for name in without:
        setattr(tokenizer, name, None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    config = configuration(kind, vocabulary, **more)
    config.num_labels = labels
    if "pad_token" in without:
        config.pad_token_id = None
    build: Any = AutoModelForSequenceClassification
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build.from_config(config)
        for name, weight in model.named_parameters():
            if name.endswith(("score.weight", "out_proj.weight")):
                torch.nn.init.normal_(weight)
    with silent_transformers():
        model.to(dtype).save_pretrained(folder)
    return folder


def change(folder: Path, *, nan: bool = False, rename: str = "") -> None:
    """Make the head of a saved classifier no number, or call it otherwise."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    head = weights.pop("score.weight")
    weights[rename or "score.weight"] = torch.full_like(head, torch.nan) if nan else head
    save_file(weights, file, metadata={"format": "pt"})


def difference(sweep: Path, model: Path, template: str, label: int | None = None) -> float:
    """Largest relative difference of the rewards in a sweep from plain transformers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    build: Any = AutoModelForSequenceClassification
    reads: Any = AutoTokenizer
    with silent_transformers():
        plain = build.from_pretrained(model, dtype=torch.float32).eval()
    plain.config.pad_token_id = None
    tokenizer = reads.from_pretrained(model)
    prompts = read_parquet(sweep / "reference" / "prompts.parquet")["transcript"]
    worst = 0.0
    for file in (sweep / "reference" / "samples.parquet", *sweep.glob("trials/*/samples.parquet")):
        for row in read_parquet(file).to_dict("records"):
            text = template.replace("{response}", row["response"])
            text = text.replace("{prompt}", prompts[row["prompt_id"]])
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = ids[-ROBERTA_LIMIT:] if plain.config.model_type == "roberta" else ids
            with torch.inference_mode():
                logits = plain(input_ids=torch.tensor([ids])).logits[0].double()
            right = float(logits[0])
            if label is not None:
                right = float(logits[label] - logits[1 - label])
            worst = max(worst, abs(row["reward"] - right) / max(1.0, abs(right)))
    return worst


def win_rate(rewards: Any, opponents: Any) -> float:
    """Share of the pairs in which a reward is above the opponent's, ties a half."""
    ours, theirs = np.asarray(rewards)[:, None], np.asarray(opponents)[None, :]
    return float(((ours > theirs) + 0.5 * (ours == theirs)).mean())
