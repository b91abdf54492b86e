"""Sampling: 512 responses of 128 tokens, by this project and by transformers' ``generate``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.bench import PAD, Bench, Work
from benchmarks.gpu.clock import peak, reset_peak
from benchmarks.gpu.ours import backend
from benchmarks.gpu.peers import first_that_fits
from dpo_bench.model.narrow_weights import narrow_weights
from dpo_bench.model.rounded_copy import rounded
from dpo_bench.model.sampling import SamplingPlan, sample_responses

Say = Callable[[dict[str, Any]], None]
KIND = "UltraFeedback-like"
SAMPLES = 2
"""Responses to each prompt."""


def _prompts(bench: Bench, vocabulary: int) -> list[list[int]]:
    drawn = bench.pairs(KIND, vocabulary, 4 if bench.dry else 256).prompt
    return [drawn[index].tolist() for index in range(len(drawn))]


def _tokens(bench: Bench) -> int:
    return 8 if bench.dry else 128


def ours(bench: Bench, say: Say, shape: str) -> None:
    """The built-in sampler, weights in bf16."""
    shaped = bench.shape(shape)
    prompts = _prompts(bench, shaped["vocab_size"])
    longest = max(map(len, prompts)) + _tokens(bench)
    policy = backend(bench, shape, longest)
    policy.model.requires_grad_(requires_grad=False)
    narrow_weights(policy)

    def run(tokens: int) -> int:
        # A response ends at the rarest of causes, so that all are of one length.
        end = frozenset({shaped["vocab_size"] - 1})
        plan = SamplingPlan(SAMPLES, tokens, 1.0, end, 0, "benchmark", SAMPLES * len(prompts))
        return sum(len(one.tokens) for one in sample_responses(sampling, prompts, plan))

    with rounded(policy) as sampling:
        run(2)
        _timed(bench, say, shape, prompts, run, {"sampler": policy.sampler})


def generate(bench: Bench, say: Say, shape: str) -> None:
    """transformers' ``generate``, weights in bf16, as many rows at once as fit."""
    prompts = _prompts(bench, bench.shape(shape)["vocab_size"])
    model = bench.model(shape, torch.bfloat16)
    rows = [one for one in prompts for _ in range(SAMPLES)]

    def attempt(size: int) -> None:
        def run(tokens: int) -> int:
            parts = [rows[at : at + size] for at in range(0, len(rows), size)]
            return sum(_generated(bench, model, part, tokens) for part in parts)

        with torch.inference_mode():
            run(2)
            how = {"sampler": "generate", "rows_at_once": size}
            _timed(bench, say, shape, prompts, run, how)

    sizes = [len(rows) >> halvings for halvings in range(4)]
    if not first_that_fits(sizes, attempt):
        raise RuntimeError(f"not even {sizes[-1]} rows at once fit")


def _generated(bench: Bench, model: Any, rows: list[list[int]], tokens: int) -> int:
    """Number of tokens that ``generate`` gives to some rows, padded on the left."""
    longest = max(map(len, rows))
    padded = np.full((len(rows), longest), PAD, np.int64)
    mask = np.zeros_like(padded)
    for row, prompt in enumerate(rows):
        padded[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    found = model.generate(
        input_ids=torch.from_numpy(padded).to(bench.device),
        attention_mask=torch.from_numpy(mask).to(bench.device),
        do_sample=True,
        top_k=0,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        use_cache=True,
        pad_token_id=PAD,
    )
    return int(found[:, longest:].numel())


def _timed(
    bench: Bench,
    say: Say,
    shape: str,
    prompts: list[list[int]],
    run: Callable[[int], int],
    how: dict[str, Any],
) -> None:
    reset_peak(bench.device)
    if bench.device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    tokens = run(_tokens(bench))
    if bench.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    say(
        {
            "decode_seconds": seconds,
            "tokens": tokens,
            "rows": SAMPLES * len(prompts),
            "least_bytes": least_bytes(bench, shape, prompts),
            **peak(bench.device),
            "how": how,
        }
    )


def least_bytes(bench: Bench, shape: str, prompts: list[list[int]]) -> float:
    """Bytes that must be read: all weights and the whole past of every row at every token."""
    work, new = Work(bench.shape(shape), trains_all=True), _tokens(bench)
    past = SAMPLES * sum(new * len(one) + new * (new - 1) // 2 for one in prompts)
    return float(new * work.bytes_of_weights() + past * work.bytes_of_past())
