"""``python -m benchmarks.memory [--only report|docs]``: the plan, checked, and what fits."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory.saved_tensors import saved_bytes
from benchmarks.memory.shapes import LONGEST, PROMPT, RESPONSE, SHAPES, model, pairs, policy
from dpo_bench.experiment.config import Training
from dpo_bench.model.activation_checkpointing import checkpoint_layers, decoder_layers
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.pass_memory import PassMemory, measure_pass
from dpo_bench.training.memory import Measure, MemoryPlan, Setting, plan_memory

GIB = 1 << 30
MEASURED, CHECKED = 12288, 16384
"""Tokens of the larger pass that a plan is made from here, and of the pass it is held against."""
RANK = 16
CARDS, RANKS = (24, 40, 80, 141), (1, 4, 8)
BEGIN, END = "<!-- what fits: written by python -m benchmarks.memory -->", "<!-- end -->"


def comparisons(shapes: tuple[str, ...], measured: int, checked: int) -> Iterator[dict[str, Any]]:
    """Plan and check of each shape, whole and with an adapter, checkpointed and not."""
    texts = pairs()
    dtype = torch.bfloat16
    for shape in shapes:
        for rank in (None, RANK):
            for checkpointing in (False, True):
                backend = policy(shape, rank)
                indices = _indices(texts, checked)
                tokens = int(texts.sizes[indices].sum())
                saved = saved_bytes(
                    backend, texts, indices, checkpointing=checkpointing, dtype=dtype
                )
                if checkpointing:
                    checkpoint_layers(backend.model)
                started = time.process_time()
                plan = measure_pass(backend, texts, measured, dtype, "cuda")
                if plan is None:
                    raise RuntimeError("these are all measured")
                seconds = time.process_time() - started
                rest = _beside(backend, shape, rank) + plan.logits.at(tokens)
                yield {
                    "shape": shape,
                    "trained": "whole" if rank is None else f"LoRA {rank}",
                    "checkpointing": "full" if checkpointing else "none",
                    "tokens": tokens,
                    "plan": plan.layers.at(tokens),
                    "saved": saved,
                    "each": plan.layers.each,
                    "logits": plan.logits.at(tokens),
                    "trial": (rest + plan.layers.at(tokens)) / (rest + saved),
                    "seconds": seconds,
                }


def _beside(backend: LogprobBackend, shape: str, rank: int | None) -> int:
    """Bytes of a trial besides its passes."""
    setting = Setting("cuda", "bf16", 1 << 50, LONGEST, 1, 1)
    reference = None if rank else model(shape)
    plan = plan_memory(backend, reference, Training(), pairs(), setting, measure=lambda *_: None)
    return plan.resident


def _indices(texts: Any, tokens: int) -> list[int]:
    found: list[int] = []
    while texts.sizes[found].sum() < tokens:
        found.append(len(found) % len(texts))
    return found


def fitting(shapes: tuple[str, ...]) -> Iterator[tuple[str, str, int, list[MemoryPlan]]]:
    """Of each shape, way of training and number of GPUs, the plan for each size of card."""
    texts = pairs()
    for shape in shapes:
        for rank in (None, RANK):
            backend = policy(shape, rank)
            reference = None if rank else model(shape)
            measure = _remembering()
            for ranks in RANKS:
                plans = []
                for card in CARDS:
                    setting = Setting("cuda", "bf16", card * GIB, LONGEST, 512, 768, ranks)
                    moves = ranks == 1
                    plans.append(
                        plan_memory(
                            backend,
                            reference,
                            Training(),
                            texts,
                            setting,
                            moves_reference=moves,
                            measure=measure,
                        )
                    )
                yield shape, "whole" if rank is None else f"LoRA {RANK}", ranks, plans


def _remembering() -> Measure:
    """Measures each way of one policy once: a pass is the same on every card."""
    known: dict[bool, PassMemory | None] = {}

    def measure(backend: LogprobBackend, *arguments: Any) -> PassMemory | None:
        way = "forward" in vars(decoder_layers(backend.model)[0])
        if way not in known:
            known[way] = measure_pass(backend, *arguments)
        return known[way]

    return measure


def what_fits(shapes: tuple[str, ...]) -> list[str]:
    """The table of the documentation."""
    heads = "".join(f" {card} GiB |" for card in CARDS)
    lines = [f"| model | trained | GPUs a trial |{heads}", "|---|---|---:|" + "---|" * len(CARDS)]
    for shape, trained, ranks, plans in fitting(shapes):
        cells = "".join(f" {_cell(plan)} |" for plan in plans)
        lines.append(f"| {shape} | {trained} | {ranks} |{cells}")
        print(lines[-1], flush=True)
    return lines


def _cell(plan: MemoryPlan) -> str:
    if not plan.fits:
        least = replace(plan, most_tokens=plan.setting.longest)
        short = "sampling" if plan.tokens >= plan.setting.longest else "training"
        return f"no: {getattr(least, short) / GIB:,.0f} for {short}"
    marks = ("c" if plan.checkpointing else "") + ("h" if plan.is_on_host else "")
    return f"{plan.total / GIB:,.0f}; {plan.tokens:,}{' ' + marks if marks else ''}"


def checked(shapes: tuple[str, ...]) -> list[str]:
    """The table of the report."""
    heads = "model trained checkpointing tokens KB/token planned saved ratio trial logits CPU-s"
    lines = [f"| {' | '.join(heads.split())} |", "|---|---|---|" + "---:|" * 8]
    for row in comparisons(shapes, MEASURED, CHECKED):
        lines.append(
            f"| {row['shape']} | {row['trained']} | {row['checkpointing']} | {row['tokens']:,} "
            f"| {row['each'] / 1e3:,.0f} | {row['plan'] / GIB:.2f} | {row['saved'] / GIB:.2f} "
            f"| {row['plan'] / row['saved']:.3f} | {row['trial']:.3f} | {row['logits'] / GIB:.2f} "
            f"| {row['seconds']:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


REPORT = """# The memory plan, checked

`python -m benchmarks.memory`, on a CPU, without the memory that it speaks of: shapes of Llama on
tensors without values (torch {torch}), weights in bf16, packed pairs of about {prompt} + 2 x
{response} tokens. Nothing here was measured on a GPU.

*Planned* is what the plan says of the layers' passes, GiB: of two passes of about {half:,} and
{measured:,} tokens, there and back, the bytes of storages alive at the worst moment, extended to
the pass of the column *tokens*. *Saved* is counted in another way, at that size: the storages that
autograd saves for the backward pass; with checkpointing, what goes into each layer and what one
layer saves. *Ratio* is the one by the other, and *trial* the same with weights, gradients,
moments and logits added to both. *Logits* is what the head takes besides, GiB, 4,096 tokens at a
time. *CPU-s* is the time that the plan's two passes took.

{table}

Without checkpointing both counts agree. With it what is saved lacks the gradients within the layer
whose backward pass runs, which the plan sees and the memory must hold; against the log of torch's
own allocator, of a real model there and back on a CPU, the plan of packed texts is within a tenth
with checkpointing and without, whole and with an adapter (`tests/model/test_pass_memory.py`).
"""


def main() -> None:
    """Write the report and the table of the documentation, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/memory"))
    parser.add_argument("--docs", type=Path, default=Path("docs/scale.md"))
    parser.add_argument("--only", choices=("report", "docs"))
    options = parser.parse_args()
    shapes = tuple(SHAPES)
    if options.only != "docs":
        write_report(options.out, shapes[:3])
    if options.only != "report":
        write_docs(options.docs, shapes)


def write_report(folder: Path, shapes: tuple[str, ...]) -> None:
    """The plan beside the other count."""
    folder.mkdir(parents=True, exist_ok=True)
    text = REPORT.format(
        torch=torch.__version__.partition("+")[0],
        prompt=PROMPT,
        response=RESPONSE,
        half=MEASURED // 2,
        measured=MEASURED,
        table="\n".join(checked(shapes)),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_docs(page: Path, shapes: tuple[str, ...]) -> None:
    """What fits, into its place of a page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    lines = "\n".join(what_fits(shapes))
    page.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
