"""What each technique brings, turned on one after another."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.data.batches import split_passes
from dpo_bench.model.load import load_model
from dpo_bench.model.logprob_backends import FullLogitsBackend, HiddenStateBackend, LogprobBackend
from dpo_bench.model.logprobs import sum_by_row, token_logps

if TYPE_CHECKING:
    from benchmarks.versus_trl.workloads import Prepared
    from dpo_bench.data.tokenized import TokenizedPairs

Step = Callable[[], None]
ROUNDS = 3


def measure_ladder(prepared: Prepared, cores: int, *, quick: bool) -> dict[str, Any]:
    """Forward and backward of one step's pairs on one thread; then, two processes.

    Every rung is the best of a few rounds in which all rungs take turns.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = _steps(prepared)
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(1 if quick else ROUNDS):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - started)
    speed = _matrix_speed(prepared)
    torch.set_num_threads(threads)
    rungs = [{"rung": name, "milliseconds": 1e3 * value} for name, value in best.items()]
    gain = _gain_of_processes(prepared, cores)
    rungs.append(
        {
            "rung": f"+ {cores} processes of one thread instead of one of {cores} threads",
            "gain": gain,
        }
    )
    return {
        "workload": prepared.workload.key,
        "title": prepared.workload.title,
        "rungs": rungs,
        "matrix_product_gflops": speed / 1e9,
        "floor_milliseconds": 1e3 * _floor(prepared) / speed,
    }


def _steps(prepared: Prepared) -> dict[str, Step]:
    pairs = prepared.load_pairs()
    policy, reference = load_model(prepared.model), load_model(prepared.model)
    indices = list(range(prepared.workload.pairs_per_step))
    cached = torch.zeros(2 * len(indices))

    def step(backend: LogprobBackend, live: LogprobBackend | None = None, budget: int = 0) -> Step:
        def run() -> None:
            policy.zero_grad()
            for part in split_passes(pairs, indices, tokens_per_pass=budget):
                with torch.no_grad():
                    base = cached[: 2 * len(part)] if live is None else _sums(live, pairs, part)
                chosen, rejected = (_sums(backend, pairs, part) - base).chunk(2)
                (-logsigmoid(0.1 * (chosen - rejected)).sum() / len(indices)).backward()

        return run

    packed = HiddenStateBackend(policy, packs=True)
    return {
        "padded, logits everywhere, live reference": step(
            FullLogitsBackend(policy), FullLogitsBackend(reference)
        ),
        "+ cached reference": step(FullLogitsBackend(policy)),
        "+ head on response tokens only": step(HiddenStateBackend(policy)),
        "+ packing, every prompt once": step(packed),
        "+ passes of bounded tokens": step(packed, budget=packed.tokens_per_pass()),
    }


def _sums(backend: LogprobBackend, pairs: TokenizedPairs, indices: list[int]) -> Tensor:
    batch = backend.batch(pairs, indices)
    return sum_by_row(token_logps(backend, batch), batch.lengths)


def _floor(prepared: Prepared) -> float:
    """Operations of a step's matrix products, attention's left out: every prompt once.

    Six for each parameter of a layer and token; six for each weight of the head and response token.
    """
    pairs, workload = prepared.load_pairs(), prepared.workload
    step = pairs.take(range(workload.pairs_per_step))
    model = load_model(prepared.model)
    head = model.get_input_embeddings().weight.numel()
    responses = step.chosen_lengths.sum() + step.rejected_lengths.sum()
    layers = model.num_parameters() - head
    return 6.0 * float(layers * step.sizes.sum() + head * responses)


def _matrix_speed(prepared: Prepared) -> float:
    """Operations per second of one thread in a plain matrix product of the model's shapes."""
    width = int(load_model(prepared.model).config.hidden_size)
    tokens = int(prepared.load_pairs().sizes[: prepared.workload.pairs_per_step].sum())
    left, right = torch.rand(tokens, width), torch.rand(width, 3 * width)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - started)
    return 2.0 * tokens * width * 3 * width / best


def _gain_of_processes(prepared: Prepared, cores: int) -> float:
    """How much sooner single-threaded processes finish the same trials."""
    from benchmarks.versus_trl.__main__ import Team

    trials = [("dpo", 0.1)] * cores
    with tempfile.TemporaryDirectory() as folder:
        many, one = Team("dpo_bench"), Team("dpo_bench")
        many.spawn(prepared, cores, 1, Path(folder))
        one.spawn(prepared, 1, cores, Path(folder))
        many.round(trials)
        one.round(trials)
        many.dismiss()
        one.dismiss()
    return one.rounds[0] / many.rounds[0]
