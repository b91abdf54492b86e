"""Several trials as one: their weights stacked, one forward and backward for all (`torch.func`).

python -m benchmarks.versus_trl.fusion

The trainer does not do this. What is measured here is why: see the section on it in the report.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import logsigmoid, scaled_dot_product_attention

from benchmarks.versus_trl.workloads import WORKLOADS, Prepared, prepare
from dpo_bench.data.batches import split_passes
from dpo_bench.data.packing import Pack
from dpo_bench.data.tokenized import TokenizedPairs
from dpo_bench.model.load import load_model
from dpo_bench.model.logprob_backends import AnyBatch, HiddenStateBackend
from dpo_bench.model.logprobs import sum_by_row, token_logps

VARIANTS = (2, 4)
ROUNDS = 3
ATTENTION = "fused_variants"


@torch.library.custom_op("dpo_bench::variants_attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention; shapes [row, head, token, width]."""
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)


@attention.register_vmap
def _attention_of_variants(
    _info: Any, places: Any, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, int]:
    """The variants as further rows: torch itself would call its fused kernel for one at a time."""
    rows = [
        part.movedim(place, 0) for part, place in zip((query, key, value), places, strict=False)
    ]
    q, k, v = (part.flatten(0, 1) for part in rows)
    out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return out.unflatten(0, rows[0].shape[:2]), 0


class FusablePath(HiddenStateBackend):
    """Packed, with an attention of plain tensor operations, which `vmap` can go through."""

    @contextmanager
    def _inputs(self, batch: AnyBatch) -> Iterator[dict[str, Tensor]]:
        from transformers import AttentionInterface

        assert isinstance(batch, Pack)
        pack = batch

        def attend(
            _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: None, **options: Any
        ) -> tuple[Tensor, None]:
            slots = [
                part[0].transpose(0, 1).index_select(0, pack.token_of_slot)
                for part in (query, key, value)
            ]
            found, start = [], 0
            for bucket in pack.buckets:
                end = start + bucket.rows * bucket.length
                q, k, v = (
                    part[start:end].unflatten(0, (bucket.rows, bucket.length)).transpose(1, 2)
                    for part in slots
                )
                out = attention(q, k, v, options["scaling"])
                found.append(out.transpose(1, 2).flatten(0, 1))
                start = end
            return torch.cat(found).index_select(0, pack.slot_of_token)[None], None

        AttentionInterface.register(ATTENTION, attend)
        self.model.set_attn_implementation(ATTENTION)
        yield {"input_ids": batch.input_ids, "position_ids": batch.position_ids}


class _Logps(torch.nn.Module):
    """A path as a module, so that its weights can be handed in."""

    def __init__(self, backend: HiddenStateBackend) -> None:
        super().__init__()
        self.model = backend.model
        self.backend = backend

    def forward(self, batch: Pack) -> Tensor:
        return token_logps(self.backend, batch)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """A step's work: its pairs, and the passes that it takes.

    Attributes:
        prepared: the workload.
        pairs: its pairs.
        passes: indices of the pairs of each forward pass.
    """

    prepared: Prepared
    pairs: TokenizedPairs
    passes: list[list[int]]

    def betas(self, variants: int) -> list[float]:
        """A strength for each variant."""
        return [0.1 * (at + 1) for at in range(variants)]

    def loss(self, logps: Tensor, batch: AnyBatch, beta: float) -> Tensor:
        """DPO's loss with a reference of zeros, as a share of the step's mean."""
        chosen, rejected = sum_by_row(logps, batch.lengths).chunk(2)
        total = sum(len(part) for part in self.passes)
        return -logsigmoid(beta * (chosen - rejected)).sum() / total

    def optimizer(self, weights: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The trainer's."""
        return torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0, fused=True)


def one_after_another(bench: WorkerContext, variants: int) -> Callable[[], list[Tensor]]:
    """A step of every variant in turn, as the trainer makes it; gives the gradient norms."""
    trials = []
    for beta in bench.betas(variants):
        path = HiddenStateBackend(load_model(bench.prepared.model), packs=True)
        trials.append((beta, path, bench.optimizer(list(path.model.parameters()))))

    def step() -> list[Tensor]:
        norms = []
        for beta, path, optimizer in trials:
            optimizer.zero_grad()
            for part in bench.passes:
                batch = path.batch(bench.pairs, part)
                bench.loss(token_logps(path, batch), batch, beta).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(path.model.parameters(), 1.0))
            optimizer.step()
        return norms

    return step


def fused(bench: WorkerContext, variants: int) -> Callable[[], list[Tensor]]:
    """The same step of all variants at once; gives the gradient norms."""
    models = [_Logps(FusablePath(load_model(bench.prepared.model), packs=True))] * variants
    stacked, buffers = stack_module_state(models)
    module, betas = models[0], bench.betas(variants)
    weights = list(stacked.values())
    optimizer = bench.optimizer(weights)

    def step() -> list[Tensor]:
        optimizer.zero_grad()
        for part in bench.passes:
            batch = module.backend.batch(bench.pairs, part)

            def logps(state: Any, held: Any, batch: AnyBatch = batch) -> Tensor:
                found: Tensor = functional_call(module, (state, held), (batch,))
                return found

            rows = vmap(logps)(stacked, buffers)
            losses = [bench.loss(row, batch, beta) for row, beta in zip(rows, betas, strict=True)]
            torch.stack(losses).sum().backward()
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        shrink = (1.0 / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(shrink.view(-1, *[1] * (gradient.dim() - 1)))
        optimizer.step()
        return list(norms)

    return step


def bench_of(prepared: Prepared) -> WorkerContext:
    """The first step of a workload, in the passes that the trainer takes."""
    pairs = prepared.load_pairs()
    path = HiddenStateBackend(load_model(prepared.model), packs=True)
    indices = range(prepared.workload.pairs_per_step)
    parts = split_passes(pairs, list(indices), tokens_per_pass=path.tokens_per_pass())
    return WorkerContext(prepared, pairs, [list(part) for part in parts])


def measure_fusion(prepared: Prepared, *, rounds: int = ROUNDS) -> dict[str, Any]:
    """Milliseconds of a step of several variants, in turn and at once, on one thread.

    The best of some rounds in which both take turns.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = bench_of(prepared)
    rows = []
    for variants in VARIANTS:
        steps = [one_after_another(bench, variants), fused(bench, variants)]
        best = [float("inf")] * len(steps)
        for _ in range(rounds):
            for at, step in enumerate(steps):
                started = time.perf_counter()
                step()
                best[at] = min(best[at], 1e3 * (time.perf_counter() - started))
        rows.append({"variants": variants, "in_turn": best[0], "at_once": best[1]})
    torch.set_num_threads(threads)
    workload = prepared.workload
    return {"workload": workload.key, "title": workload.title, "rows": rows}


def main() -> None:
    """Measure the three small workloads and print what was found."""
    for key in ("a", "b", "c"):
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure_fusion(prepare(WORKLOADS[key], Path(folder)))), flush=True)


if __name__ == "__main__":
    main()
