"""``python -m benchmarks.study``: hours of a study of forty trials on 1, 8 and 64 GPUs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.memory.shapes import LONGEST, PROMPT, RESPONSE, SHAPES, model, pairs, policy
from dpo_bench.experiment.config import Training
from dpo_bench.training.memory import MemoryPlan, Setting, plan_memory

GIB, HOUR = 1 << 30, 3600.0
CARD_BYTES = 80 * GIB
OPERATIONS, BANDWIDTH = 989e12, 3.35e12
"""Of an H100 SXM as its maker gives them: bf16 operations and bytes per second."""
SHARES = (0.45, 0.2)
"""Of these operations that training and scoring are taken to reach: at the best, at the worst."""
ABOVE_FLOOR = (2.0, 8.0)
"""How many times what the bandwidth allows sampling is taken to need, likewise."""
TRIALS, PAIRS, PROMPTS, SAMPLES, NEW_TOKENS = 40, 10_000, 512, 2, 512
REFERENCE_SAMPLES = 64
GPUS, RANKS = (1, 8, 64), (1, 2, 4, 8)
CASES: tuple[tuple[str, int | None], ...] = (
    ("1B (Llama 3.2)", None),
    ("8B (Llama 3)", 16),
    ("8B (Llama 3)", None),
    ("70B (Llama 3)", 16),
    ("70B (Llama 3)", None),
)
BEGIN, END = "<!-- a study: written by python -m benchmarks.study -->", "<!-- end of the study -->"


@dataclass(frozen=True, slots=True)
class Work:
    """What a trial and its reference cost on one GPU, at the best and at the worst.

    Attributes:
        trial: seconds of training and evaluation.
        reference: seconds of the reference's log-probs and evaluation, once for all trials.
        sampling: share of the trial's seconds that goes into sampling.
    """

    trial: float
    reference: float
    sampling: float


def work(shape: str, plan: MemoryPlan, *, lora: bool, best: bool) -> Work:
    """Seconds of one GPU, whatever their number: they are taken to share the work evenly.

    Args:
        shape: of the model.
        plan: says whether layers are checkpointed.
        lora: whether an adapter alone is trained.
        best: at the best of the rates, else at the worst.
    """
    sizes = SHAPES[shape]
    body = model(shape).num_parameters() - sizes["vocab_size"] * sizes["hidden_size"] * (
        1 if sizes.get("tie_word_embeddings") else 2
    )
    head = sizes["vocab_size"] * sizes["hidden_size"]
    rate = OPERATIONS * SHARES[0 if best else 1]
    tokens, responses = PROMPT + 2 * RESPONSE, 2 * RESPONSE
    passes = (4 if lora else 6) + (2 if plan.checkpointing else 0)
    attention = 2 * passes * sizes["num_hidden_layers"] * sizes["hidden_size"]
    attention *= (PROMPT + RESPONSE) ** 2 / 2
    pair = passes * body * tokens + 8 * head * responses + attention
    training = PAIRS * pair / rate
    score = 2 * (body + head) * (PROMPT + NEW_TOKENS) * 2 / rate

    def evaluation(samples: int) -> tuple[float, float]:
        rows = PROMPTS * samples
        batches = math.ceil(rows / 512)
        cache = 2 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"]
        cache *= 2 * sizes["hidden_size"] // sizes["num_attention_heads"]
        read = 2 * (body + head) * batches + rows * cache * (PROMPT + NEW_TOKENS / 2)
        sampling = NEW_TOKENS * read / BANDWIDTH * ABOVE_FLOOR[0 if best else 1]
        return sampling, rows * score

    own, of_reference = evaluation(SAMPLES), evaluation(REFERENCE_SAMPLES)
    trial = training + sum(own)
    reference = PAIRS * (2 * body * tokens + 2 * head * responses) / rate + of_reference[0]
    return Work(trial, reference, own[0] / trial)


def smallest(shape: str, rank: int | None) -> tuple[int, MemoryPlan] | None:
    """The fewest GPUs that hold a trial, with the plan; None where eight do not."""
    backend = policy(shape, rank)
    reference = None if rank else model(shape)
    for ranks in RANKS:
        setting = Setting("cuda", "bf16", CARD_BYTES, LONGEST, 512, NEW_TOKENS, ranks)
        plan = plan_memory(
            backend, reference, Training(), pairs(), setting, moves_reference=ranks == 1
        )
        if plan.fits:
            return ranks, plan
    return None


def rows() -> Iterator[str]:
    """A line of the table for each model and number of GPUs."""
    for shape, rank in CASES:
        trained = "whole" if rank is None else f"LoRA {rank}"
        found = smallest(shape, rank)
        if found is None:
            yield f"| {shape} | {trained} | | | | does not fit on 8 GPUs of 80 GiB | |"
            continue
        ranks, plan = found
        both = [work(shape, plan, lora=rank is not None, best=best) for best in (True, False)]
        for gpus in GPUS:
            yield line(shape, trained, gpus, ranks, plan, both)


def line(
    shape: str, trained: str, gpus: int, ranks: int, plan: MemoryPlan, both: list[Work]
) -> str:
    """Hours of the study on so many GPUs."""
    if gpus < ranks:
        return f"| {shape} | {trained} | {gpus} | {ranks} | | needs {ranks} GPUs | |"
    at_once = min(gpus // ranks, TRIALS)
    turns = math.ceil(TRIALS / at_once)
    hours = [(turns * one.trial + one.reference) / ranks / HOUR for one in both]
    reference = [one.reference / ranks / HOUR for one in both]
    limits = "the reference, once" if reference[1] > hours[1] / 2 else "training"
    if both[1].sampling > 0.5 and limits == "training":
        limits = "sampling"
    mark = " c" if plan.checkpointing else ""
    return (
        f"| {shape} | {trained} | {gpus} | {ranks} | {plan.total / GIB:,.0f}{mark} "
        f"| {spelled(hours)} (reference {spelled(reference)}) | {limits} |"
    )


def spelled(hours: list[float]) -> str:
    """From the least to the most, two digits."""
    return " to ".join(
        f"{float(np.format_float_positional(one, 2, fractional=False)):g}" for one in hours
    )


def main() -> None:
    """Write the table into its place of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=Path("docs/scale.md"))
    page = parser.parse_args().docs
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    table = [
        "| model | trained | GPUs | GPUs a trial | GiB of each | hours | what limits |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for one in rows():
        table.append(one)
        print(one, flush=True)
    lines = "\n".join(table)
    page.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
