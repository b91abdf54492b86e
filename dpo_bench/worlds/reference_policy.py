"""The reference model of a world: a small Llama, trained from scratch on the grammar's reviews."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_bench.progress import Progress
from dpo_bench.threads import one_thread
from dpo_bench.worlds.cache import kept_folder, stream_seed
from dpo_bench.worlds.grammar import write_review
from dpo_bench.worlds.tokenizer import BOS, EOS, MAX_TOKENS, PAD, build_tokenizer, token_list

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PHASE = "world: training the reference"

_BATCHES_PER_POOL = 8  # reviews of this many steps are drawn at once and batched by length
_BOS_SHARE = 0.5  # of the reviews begin with BOS: the model reads prompts with and without it


@dataclass(frozen=True, slots=True)
class Recipe:
    """Size and training of a reference model."""

    width: int = 64
    layers: int = 1
    heads: int = 4
    feed_forward: int = 160
    steps: int = 700
    reviews_per_step: int = 32
    learning_rate: float = 1.2e-2
    """peak learning rate, for embeddings and norms (AdamW) and for matrices (Muon)"""


def reference_folder(name: str, recipe: Recipe, seed: int, progress: Progress) -> Path:
    """Folder of the reference model with its tokenizer, trained where it is missing."""

    def fill(folder: Path) -> dict[str, Any]:
        progress(PHASE, 0, recipe.steps)
        with one_thread(), private_randomness(stream_seed("reference", seed)):
            model = _new_model(recipe)
            losses = _train(model, recipe, seed, progress)
        with _no_bars():
            model.save_pretrained(folder)
            build_tokenizer().save_pretrained(folder)
        return {
            "parameters": model.num_parameters(),
            "vocabulary": model.config.vocab_size,
            "final_loss": round(float(np.mean(losses[-50:])), 4),  # nats per token
        }

    settings = {"world": name, "seed": seed, "recipe": asdict(recipe)}
    return kept_folder(f"{name}-model", settings, fill)


def load_reference(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Model (on the CPU, in evaluation mode) and tokenizer of a reference folder."""
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    with _no_bars():
        model = LlamaForCausalLM.from_pretrained(folder)
    model.train(mode=False)
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


@contextlib.contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator for a block and give the caller's state back after it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the accelerators' generators too
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars of its own across ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _new_model(recipe: Recipe) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(token_list()),
        hidden_size=recipe.width,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        # The usual 0.02 is meant for wide models: at this width attention starts so flat that
        # hundreds of steps pass before the model looks back at the prompt.
        initializer_range=0.1,
        pad_token_id=token_list().index(PAD),
        bos_token_id=token_list().index(BOS),
        eos_token_id=token_list().index(EOS),
    )
    return LlamaForCausalLM(config)


def _train(model: LlamaForCausalLM, recipe: Recipe, seed: int, progress: Progress) -> list[float]:
    """Train in place; returns the loss of each step, nats per token."""
    import torch

    optimizers = _optimizers(model, recipe)
    batches = _batches(recipe, stream_seed("reviews", seed))
    losses = []
    for step in range(recipe.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(step / recipe.steps)
        loss = _step_loss(model, next(batches))
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        progress(PHASE, step + 1, recipe.steps)
    return losses


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings and norms.

    With Muon 86 to 88% of the samples were well formed (seeds 0, 1, 2); in the same time AdamW
    alone reached 78 and 88% (seeds 0, 1): one of them had not yet learnt what "but" means.
    """
    import torch

    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=recipe.learning_rate, weight_decay=0.0),
        torch.optim.AdamW(
            others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    ]


def _schedule(done: float) -> float:
    """Share of the peak learning rate: up over 5% of the steps, level, down over the last half."""
    return min(1.0, (done + 1e-3) / 0.05, 2 * (1 - done))


def _step_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token; no mask is needed, as padding stands on the right."""
    from torch.nn import functional

    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=token_list().index(PAD)
    )


def _batches(recipe: Recipe, seed: int) -> Iterator[torch.Tensor]:
    """Token ids of fresh reviews without end, shape [review, token], padded on the right."""
    import torch

    generator = np.random.default_rng(seed)
    encode = build_tokenizer().backend_tokenizer.encode
    pad, bos, eos = map(token_list().index, (PAD, BOS, EOS))
    size = recipe.reviews_per_step
    while True:
        rows = []
        for _ in range(size * _BATCHES_PER_POOL):
            review = write_review(generator)
            start = [bos] if generator.random() < _BOS_SHARE else []
            rows.append([*start, *encode(review.prompt + review.response).ids, eos])
        rows.sort(key=len)
        for batch in generator.permutation(_BATCHES_PER_POOL):
            chosen = rows[batch * size : (batch + 1) * size]
            width = len(chosen[-1])
            yield torch.tensor([row + [pad] * (width - len(row)) for row in chosen])
