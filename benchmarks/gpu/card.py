"""The card's ceilings: what a perfect program could have of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.clock import gemm_tflops, seconds_of
from dpo_bench.model import varlen
from dpo_bench.model.linear_head import product

Say = Callable[[dict[str, Any]], None]
LAUNCHES = 1000


def measure(bench: Bench, say: Say) -> None:
    """Every ceiling by itself: one that fails leaves the others."""
    say({"ceiling": "bf16 matrix product", "value": _peak(bench), "unit": "TFLOP/s"})
    for part in (_copy, _heads, _attention, _launch):
        try:
            for name, value, unit in part(bench):
                say({"ceiling": name, "value": value, "unit": unit})
        except (ImportError, NotImplementedError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            say({"ceiling": part.__name__.strip("_"), "value": None, "unit": reason})


def _peak(bench: Bench) -> float:
    return gemm_tflops(bench.device, dry=bench.dry)


def _copy(bench: Bench) -> Iterator[tuple[str, float, str]]:
    source = torch.empty(1 << (20 if bench.dry else 31), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = seconds_of(lambda: target.copy_(source), bench.device)
    yield "copy, read and written", 2 * source.numel() / seconds / 1e9, "GB/s"


def _heads(bench: Bench) -> Iterator[tuple[str, float, str]]:
    """The output embedding of 1B, in the precisions that it could be computed in."""
    shape = bench.shape("1B (Llama 3.2)")
    rows, width, vocabulary = (64 if bench.dry else 4096), shape["hidden_size"], shape["vocab_size"]
    states = torch.randn(rows, width, device=bench.device)
    weight = torch.randn(width, vocabulary, device=bench.device)
    flops = 2 * rows * width * vocabulary
    before = torch.backends.cuda.matmul.allow_tf32
    for name, tf32 in (("fp32", False), ("TF32", True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        seconds = seconds_of(lambda: states @ weight, bench.device, 5)
        yield f"head of 1B, {name}", flops / seconds / 1e12, "TFLOP/s"
    torch.backends.cuda.matmul.allow_tf32 = before
    narrow, narrow_weight = states.bfloat16(), weight.bfloat16()
    seconds = seconds_of(lambda: product(narrow, narrow_weight), bench.device, 5)
    yield "head of 1B, bf16 into fp32 (as trained)", flops / seconds / 1e12, "TFLOP/s"


def _attention(bench: Bench) -> Iterator[tuple[str, float, str]]:
    """Causal attention of texts of one length, as a batch and one after another; 1B's heads."""
    shape = bench.shape("1B (Llama 3.2)")
    heads, shared = shape["num_attention_heads"], shape["num_key_value_heads"]
    width = shape["hidden_size"] // heads
    texts, length = (2, 16) if bench.dry else (24, 512)

    def some(count: int) -> Tensor:
        size = (texts, count, length, width)
        return torch.randn(size, device=bench.device, dtype=torch.bfloat16)

    query, key, value = some(heads), some(shared), some(shared)
    tokens = texts * length
    seconds = seconds_of(
        lambda: scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True),
        bench.device,
    )
    yield "attention, scaled_dot_product_attention", tokens / seconds / 1e6, "million tokens/s"
    rows = [one.transpose(1, 2).flatten(0, 1).contiguous() for one in (query, key, value)]
    starts = torch.arange(texts + 1, device=bench.device, dtype=torch.int32) * length
    seconds = seconds_of(
        lambda: varlen.causal(rows[0], rows[1], rows[2], starts, length, None), bench.device
    )
    yield "attention, varlen_attn", tokens / seconds / 1e6, "million tokens/s"


def _launch(bench: Bench) -> Iterator[tuple[str, float, str]]:
    """Small kernels one after another: what each costs at least."""
    one = torch.zeros(8, device=bench.device)

    def many() -> None:
        for _ in range(LAUNCHES):
            one.add_(1.0)

    yield "launch of a kernel", seconds_of(many, bench.device, 3) / LAUNCHES * 1e6, "microseconds"
