"""What every contender is given: device, sizes, models with random weights, pairs of drawn lengths.

Speed needs no trained weights, so nothing is downloaded; a seed makes the same for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.memory.shapes import SHAPES
from dpo_bench.data.tokenized import Ragged, TokenizedPairs

DRY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""What a dry run makes of every shape."""
PAD, END = 0, 2
FIRST = 3
"""Ids below are special."""
POINTS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
QUANTILES = {
    "UltraFeedback-like": ((8, 18, 45, 80, 155, 340, 512), (10, 60, 200, 310, 410, 500, 512)),
    "HH-like": ((10, 20, 50, 95, 155, 280, 420), (3, 8, 25, 50, 85, 160, 300)),
}
"""Tokens of a prompt and of a response at `POINTS` of their distributions, straight lines between.
Means are about 125 and 300, and 125 and 60. They stand for the two data sets and were not counted
from them. No prompt with a response is longer than 1,024 tokens, where TRL would cut it."""
LORA_RANK = 16
BETA = 0.1
RATE = 1e-6


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how large everything is measured.

    Attributes:
        device: ``cuda``, or ``cpu`` for a dry run.
        dry: whether everything is tiny: to see that it runs.
    """

    device: str
    dry: bool

    @property
    def pairs_per_step(self) -> int:
        """Pairs of an optimizer step, the same for all."""
        return 4 if self.dry else 32

    @property
    def pairs_per_pass(self) -> int:
        """Pairs of a forward pass of TRL as it comes."""
        return 2 if self.dry else 8

    @property
    def warm(self) -> int:
        """Steps that are made before any is timed."""
        return 1 if self.dry else 2

    @property
    def timed(self) -> int:
        """Steps that are timed."""
        return 2 if self.dry else 6

    @property
    def steps(self) -> int:
        """Steps that are made; synchronizations of the last, which is not timed, are counted."""
        return self.warm + self.timed + 1

    def shape(self, name: str) -> dict[str, Any]:
        """The configuration of a model."""
        return {**SHAPES[name], **(DRY if self.dry else {})}

    def model(self, name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        """A model with random weights, made on the device, in eval mode."""
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = self.shape(name)
        config = LlamaConfig(
            **shape,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=PAD,
            use_cache=False,
            dtype=dtype,
        )
        before = torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            with torch.device(self.device):
                return LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(before)

    def pairs(self, kind: str, vocabulary: int, count: int | None = None) -> TokenizedPairs:
        """Pairs of random tokens with drawn lengths; each is seen once in a run."""
        generator = np.random.default_rng(0)
        count = count or self.pairs_per_step * self.steps
        shrink = 16 if self.dry else 1

        def side(quantiles: tuple[int, ...]) -> Ragged:
            drawn = np.interp(generator.random(count), POINTS, quantiles) / shrink
            lengths = np.maximum(2, drawn.astype(int))
            return Ragged.of([generator.integers(FIRST, vocabulary, n, np.int32) for n in lengths])

        prompt, response = QUANTILES[kind]
        return TokenizedPairs(side(prompt), side(response), side(response))


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations that a step of training needs, whoever makes it.

    A weight costs 2 operations a token forward and 2 for each gradient: of the states, and of the
    weight where it is trained. Every prompt counts once, the head at response tokens alone, and
    attention at positions that are seen alone. What a trainer computes twice counts once.

    Attributes:
        shape: configuration of the model.
        trains_all: whether all weights are trained, and not an adapter, which counts nothing.
    """

    shape: dict[str, Any]
    trains_all: bool

    @property
    def layer_weights(self) -> int:
        """Weights of all layers' matrices."""
        width, inner = self.shape["hidden_size"], self.shape["intermediate_size"]
        heads, shared = self.shape["num_attention_heads"], self.shape["num_key_value_heads"]
        attention = width * width * 2 + 2 * width * width * shared // heads
        return int(self.shape["num_hidden_layers"] * (attention + 3 * width * inner))

    @property
    def head_weights(self) -> int:
        """Weights of the output embedding."""
        return int(self.shape["vocab_size"] * self.shape["hidden_size"])

    def flops(self, pairs: TokenizedPairs) -> float:
        """Operations for these pairs, forward and backward."""
        prompt = pairs.prompt.lengths.astype(float)
        chosen, rejected = pairs.chosen.lengths.astype(float), pairs.rejected.lengths.astype(float)
        responses = float((chosen + rejected).sum())
        tokens = float(prompt.sum()) + responses
        seen = prompt * (prompt + 1) / 2
        for side in (chosen, rejected):
            seen = seen + side * prompt + side * (side + 1) / 2
        each = 6 if self.trains_all else 4
        width, layers = self.shape["hidden_size"], self.shape["num_hidden_layers"]
        attention = 3 * 4 * layers * width * float(seen.sum())
        matrices = self.layer_weights * tokens + self.head_weights * responses
        return float(each * matrices + attention)

    def bytes_of_weights(self) -> int:
        """Bytes in bf16 that a token's forward pass reads."""
        return 2 * (self.layer_weights + self.head_weights)

    def bytes_of_past(self) -> int:
        """Bytes in bf16 of a token's keys and values."""
        heads, shared = self.shape["num_attention_heads"], self.shape["num_key_value_heads"]
        width = self.shape["hidden_size"] * shared // heads
        return int(2 * 2 * self.shape["num_hidden_layers"] * width)
