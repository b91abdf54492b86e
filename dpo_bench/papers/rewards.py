"""Rewards of papers, for ``evaluation.reward = "dpo_bench.papers.rewards:NAME"``."""

from __future__ import annotations

from functools import cache
from typing import Any

SIEBERT = "siebert/sentiment-roberta-large-english"
ROWS = 64


@cache
def _classifier(name: str) -> tuple[Any, Any, int]:
    """Tokenizer, model and the index of its positive class."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(name)
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    labels = {label.upper(): index for index, label in model.config.id2label.items()}
    return AutoTokenizer.from_pretrained(name), model, int(labels["POSITIVE"])


def siebert_positive(prompts: list[str], responses: list[str]) -> list[float]:
    """p(positive) of the whole review, prompt and response, as in the DPO paper's IMDb study."""
    return positive(SIEBERT, prompts, responses)


def positive(name: str, prompts: list[str], responses: list[str]) -> list[float]:
    """p(positive) by a sentiment classifier (hub id or folder) of each prompt with its response."""
    import torch

    tokenizer, model, index = _classifier(name)
    texts = [f"{prompt} {response}" for prompt, response in zip(prompts, responses, strict=True)]
    found: list[float] = []
    for start in range(0, len(texts), ROWS):
        batch = tokenizer(
            texts[start : start + ROWS], return_tensors="pt", padding=True, truncation=True,
            max_length=512,
        ).to(model.device)  # fmt: skip
        with torch.inference_mode():
            found += model(**batch).logits.float().softmax(-1)[:, index].tolist()
    return found
