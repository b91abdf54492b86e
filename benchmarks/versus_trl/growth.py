"""How time and memory of a step grow: measured exponents."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.versus_trl.workloads import Workload, prepare
from dpo_bench.model.load import load_model
from dpo_bench.model.logprob_backends import HiddenStateBackend
from dpo_bench.model.logprobs import sum_by_row, token_logps

BASE = Workload("growth", "Llama", "llama", 120, (120, 120), 4, 1, 1, 1e-3, 128, 4, 2048)
ROUNDS = 3
FACTORS = (1, 2, 4)


def measure_growth(*, quick: bool) -> list[dict[str, Any]]:
    """Exponents p of cost ~ quantity^p, fitted to three sizes each."""
    base = replace(BASE, prompt=12, response=(12, 12), width=32, layers=1) if quick else BASE
    low = base.response[0]
    grown: dict[str, Callable[[int], Workload]] = {
        "pairs of a step": lambda k: replace(base, pairs_per_step=base.pairs_per_step * k),
        "tokens of a pair": lambda k: replace(
            base, prompt=base.prompt * k, response=(low * k, low * k)
        ),
        "parameters (layers)": lambda k: replace(base, layers=base.layers * k),
        "vocabulary": lambda k: replace(base, vocabulary=base.vocabulary * 2 * k),
    }
    rows = [_row(name, [make(k) for k in FACTORS]) for name, make in grown.items()]
    return [*rows, _trials(base)]


def _row(name: str, workloads: Sequence[Workload]) -> dict[str, Any]:
    sizes, seconds, saved = [], [], []
    for workload in workloads:
        spent, kept, parameters = _step_cost(workload)
        seconds.append(spent)
        saved.append(kept)
        sizes.append(
            {
                "pairs of a step": float(workload.pairs_per_step),
                "tokens of a pair": workload.prompt + 2.0 * workload.response[0],
                "parameters (layers)": float(parameters),
                "vocabulary": float(workload.vocabulary),
            }[name]
        )
    return {
        "quantity": name,
        "sizes": sizes,
        "seconds": seconds,
        "bytes_kept_for_backward": saved,
        "time_exponent": exponent(sizes, seconds),
        "memory_exponent": exponent(sizes, saved),
    }


def _step_cost(workload: Workload) -> tuple[float, float, int]:
    """Seconds of forward and backward, bytes kept between them, parameters outside embeddings."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(workload, Path(folder))
        model, pairs = load_model(prepared.model), prepared.load_pairs()
    path = HiddenStateBackend(model, packs=True)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def loss() -> Tensor:
        batch = path.batch(pairs, range(len(pairs)))
        chosen, rejected = sum_by_row(token_logps(path, batch), batch.lengths).chunk(2)
        return -logsigmoid(0.1 * (chosen - rejected)).mean()

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss()
        saved = sum(size for place, size in kept.items() if place not in weights)
    value.backward()
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        loss().backward()
        best = min(best, time.perf_counter() - started)
    embeddings = model.get_input_embeddings().weight.numel()
    return best, float(saved), model.num_parameters() - embeddings


def _trials(base: Workload) -> dict[str, Any]:
    """One worker's time and memory for one, two and four trials."""
    from benchmarks.versus_trl.__main__ import Team

    workload = replace(base, steps=2, pairs_per_step=2)
    seconds, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(workload, Path(folder))
        for count in FACTORS:
            team = Team("dpo_bench")
            team.spawn(prepared, 1, 1, Path(folder))
            team.round([("dpo", 0.1)])  # the first pays for what is made once
            team.round([("dpo", 0.1)] * count)
            team.dismiss()
            seconds.append(team.rounds[-1])
            peaks.append(float(team.peak[0]))
    sizes = [float(count) for count in FACTORS]
    return {
        "quantity": "trials",
        "sizes": sizes,
        "seconds": seconds,
        "peak_bytes": peaks,
        "time_exponent": exponent(sizes, seconds),
        "memory_exponent": exponent(sizes, peaks),
    }


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    center, height = sum(x) / len(x), sum(y) / len(y)
    return sum((a - center) * (b - height) for a, b in zip(x, y, strict=True)) / sum(
        (a - center) ** 2 for a in x
    )
