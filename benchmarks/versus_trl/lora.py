"""Full training beside LoRA: CPU seconds of a trial and memory of a worker, taking turns.

python -m benchmarks.versus_trl.lora                # workload b: a Llama of width 256
python -m benchmarks.versus_trl.lora --only d       # SmolLM2-135M, where its package is installed
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.versus_trl.contenders import PRELOAD, peak_memory
from benchmarks.versus_trl.workloads import TRIALS, WORKLOADS, Prepared, prepare
from dpo_bench.contract import get_loss
from dpo_bench.experiment.config import LoRA

KINDS = {"full": None, "lora": LoRA()}
MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Memory:
    """What a worker's process holds.

    Attributes:
        imports: resident when the libraries were imported, bytes.
        peak: most bytes that were resident.
        trained: number of trained weights.
        checkpoint: bytes of a checkpoint.
    """

    imports: int
    peak: int
    trained: int
    checkpoint: int


class Worker:
    """The models that a sweep's worker holds, and what it does with them but for evaluation."""

    def __init__(self, prepared: Prepared, lora: LoRA | None, folder: Path) -> None:
        from dpo_bench.model.load import load_model
        from dpo_bench.model.logprobs import choose_backend
        from dpo_bench.model.lora import with_adapter
        from dpo_bench.training.reference_model import CachedReference

        self.prepared, self.lora = prepared, lora
        self.checkpoint = folder / "checkpoint.pt"
        self.pairs = prepared.load_pairs()
        longest = self.pairs.longest
        base = choose_backend(load_model(prepared.model).requires_grad_(False), longest=longest)
        self.start = base.model
        self.reference = CachedReference(base, self.pairs, "benchmark", "cpu/fp32")
        if lora is None:
            self.backend = choose_backend(load_model(prepared.model), longest=longest)
        else:
            self.backend = with_adapter(base, lora, "benchmark")

    def trial(self, loss: str, beta: float, **changes: Any) -> float:
        """Train one trial from its start; returns its CPU seconds, waiting left out."""
        from dpo_bench.model.lora import reset_adapter
        from dpo_bench.training.trainer import Trainer

        started = time.process_time()
        if self.lora is None:
            self.backend.model.load_state_dict(self.start.state_dict())
        else:
            reset_adapter(self.backend.model, seed=0)
        trainer = Trainer(
            self.backend,
            get_loss(loss).at({"beta": beta}),
            pairs=self.pairs,
            reference=self.reference,
            settings=self.prepared.workload.settings.model_copy(update=changes),
            seed=0,
            checkpoint=self.checkpoint,
        )
        trainer.run()
        return time.process_time() - started

    def memory(self, imports: int) -> Memory:
        """What it came to; a checkpoint is written last, and is no part of the peak."""
        peak = peak_memory()
        self.trial(*TRIALS[0], steps=1, checkpoint_seconds=0)
        parameters = self.backend.model.parameters()
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        return Memory(imports, peak, trained, self.checkpoint.stat().st_size)


def serve(pipe: Connection, kind: str, prepared: Prepared, threads: int, folder: Path) -> None:
    """Entry point of a process: CPU seconds of trials on request, then its memory."""
    os.environ["DPO_BENCH_CACHE"] = str(folder)
    import torch

    for module in (*PRELOAD, "peft"):
        importlib.import_module(module)
    torch.set_num_threads(threads)
    imports = peak_memory()
    worker = Worker(prepared, KINDS[kind], folder)
    _ = worker.reference.all_sums
    pipe.send(None)
    while (task := pipe.recv()) is not None:
        pipe.send(worker.trial(*task))
    pipe.send(worker.memory(imports))


def compare(prepared: Prepared, threads: int, rounds: int) -> dict[str, tuple[list[float], Memory]]:
    """Seconds of each trial and memory, by kind."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            ours, theirs = context.Pipe()
            place = Path(folder) / kind
            place.mkdir()
            arguments: Any = (theirs, kind, prepared, threads, place)
            context.Process(target=serve, args=arguments, daemon=True).start()
            ours.recv()
            pipes[kind] = ours
        for number in range(rounds):
            for kind, pipe in pipes.items():
                pipe.send(TRIALS[number % len(TRIALS)])
                seconds[kind].append(pipe.recv())
        found = {}
        for kind, pipe in pipes.items():
            pipe.send(None)
            found[kind] = (seconds[kind], pipe.recv())
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="b", help="workloads, separated by commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4, help="trials of each kind")
    options = parser.parse_args(arguments)
    print("| workload | trained | weights | CPU s a trial (median, range) | MB | checkpoint MB |")
    print("|---|---|---|---|---|---|")
    for key in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            prepared = prepare(WORKLOADS[key], Path(folder))
            found = compare(prepared, options.threads, options.rounds)
        for kind, (seconds, memory) in found.items():
            span = f"{min(seconds):.1f} to {max(seconds):.1f}"
            held = (memory.peak - memory.imports) / MEGABYTE
            print(
                f"| {WORKLOADS[key].title} | {kind} | {memory.trained:,} |"
                f" {statistics.median(seconds):.1f} ({span}) | {held:.0f} |"
                f" {memory.checkpoint / MEGABYTE:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
