"""CPU seconds and memory of trials: full LoRA, and the upper quarter with its lower layers computed
in each pass or once."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from benchmarks.versus_trl.contenders import PRELOAD, peak_memory
from benchmarks.versus_trl.workloads import WORKLOADS, Prepared, Workload, prepare

UPPER = "top:0.25"
ROOM = 1 << 30
COUNTS = (1, 4, 8)
"""Trials of a worker after which it is read off what they came to."""
TRIALS = (
    *(("dpo", 0.1), ("ipo", 0.3), ("hinge", 0.1), ("kto", 0.1)),
    *(("dpo", 0.3), ("ipo", 0.1), ("hinge", 0.3), ("nca", 0.1)),
)
RANK = 16
LLAMA = replace(WORKLOADS["c"], title="Llama of width 256 with 8 layers, HH-like lengths", layers=8)
SMOLLM2 = replace(WORKLOADS["d"], title="SmolLM2-135M with 30 layers, HH-like lengths", steps=4)
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Way:
    """How a worker trains adapters.

    Attributes:
        layers: which have one.
        room: bytes for the lower layers' states.
    """

    layers: str
    room: int


WAYS = {
    "full LoRA": Way("all", 0),
    "upper quarter, lower layers in each pass": Way(UPPER, 0),
    "upper quarter, lower layers once": Way(UPPER, ROOM),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a worker came to after some of its trials.

    Attributes:
        model: the workload's title.
        way: name of one of `WAYS`.
        turn: number of the repetition.
        trials: how many it has trained.
        seconds: CPU seconds of them and of the reference's log-probs, which they share.
        bytes: most that was resident, beyond what its imports took.
        loss: the last loss of the last trial.
    """

    model: str
    way: str
    turn: int
    trials: int
    seconds: float
    bytes: int
    loss: float


class Worker:
    """What a worker of a sweep holds and does, but for evaluation."""

    def __init__(self, prepared: Prepared, way: Way, folder: Path) -> None:
        from dpo_bench.experiment.config import LoRA
        from dpo_bench.model.choose_lower_layers import share_lower_layers
        from dpo_bench.model.load import load_model
        from dpo_bench.model.logprobs import choose_backend
        from dpo_bench.model.lora import frozen_below, with_adapter
        from dpo_bench.training.reference_model import CachedReference

        self.settings, self.folder = prepared.workload.settings, folder
        self.pairs = prepared.load_pairs()
        model = load_model(prepared.model).requires_grad_(False)
        base = choose_backend(model, longest=self.pairs.longest)
        self.policy = with_adapter(base, LoRA(rank=RANK, layers=way.layers), "benchmark")
        below = frozen_below(model, way.layers)
        if below and way.room:
            lower = share_lower_layers([self.policy, base], below, way.room, self.pairs)
            if lower is None:
                raise RuntimeError("the lower layers' states cannot be kept: nothing to measure")
        self.reference = CachedReference(base, self.pairs, "benchmark", "cpu/fp32")

    def trial(self, number: int) -> float:
        """Train one of `TRIALS` from its start; returns its last loss."""
        from dpo_bench.contract import get_loss
        from dpo_bench.model.lora import reset_adapter
        from dpo_bench.training.trainer import Trainer

        loss, beta = TRIALS[number % len(TRIALS)]
        reset_adapter(self.policy.model, seed=0)
        trainer = Trainer(
            self.policy,
            get_loss(loss).at({"beta": beta}),
            pairs=self.pairs,
            reference=self.reference,
            settings=self.settings,
            seed=number // 4,
            checkpoint=self.folder / "checkpoint",
        )
        return float(trainer.run().metrics["loss"].iloc[-1])


def serve(pipe: Connection, way: Way, prepared: Prepared, folder: Path) -> None:
    """Entry point of a process: a trial on each request; CPU seconds, memory and loss so far."""
    os.environ["DPO_BENCH_CACHE"] = str(folder)
    import torch

    for module in (*PRELOAD, "peft", "dpo_bench.model.choose_lower_layers"):
        importlib.import_module(module)
    torch.set_num_threads(1)
    imports = peak_memory()
    started = time.process_time()
    worker = Worker(prepared, way, folder)
    _ = worker.reference.all_sums
    pipe.send(None)
    while (number := pipe.recv()) is not None:
        loss = worker.trial(number)
        pipe.send((time.process_time() - started, peak_memory() - imports, loss))


def measure(workload: Workload, turns: int, most: int = COUNTS[-1]) -> Iterator[Reading]:
    """Readings of all ways, whose workers take turns trial by trial."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as root:
        prepared = prepare(workload, Path(root))
        for turn in range(turns):
            pipes: dict[str, Connection] = {}
            for place, (name, way) in enumerate(WAYS.items()):
                folder = Path(root) / f"{turn}-{place}"
                folder.mkdir()
                ours, theirs = context.Pipe()
                arguments: Any = (theirs, way, prepared, folder)
                context.Process(target=serve, args=arguments, daemon=True).start()
                ours.recv()
                pipes[name] = ours
            for number in range(most):
                for name, pipe in pipes.items():
                    pipe.send(number)
                    found = pipe.recv()
                    if number + 1 in COUNTS:
                        yield Reading(workload.title, name, turn, number + 1, *found)
            for pipe in pipes.values():
                pipe.send(None)


def table(readings: list[Reading]) -> pd.DataFrame:
    """As it is kept in a file."""
    return pd.DataFrame([asdict(one) for one in readings])


def lines(kept: pd.DataFrame) -> Iterator[str]:
    """The table of the report, in Markdown.

    Args:
        kept: from `table`.
    """
    yield "| model | trained | trials of a worker | CPU s a trial | of full LoRA | peak MiB |"
    yield "|---|---|---:|---:|---:|---:|"
    for model, trials in kept[["model", "trials"]].drop_duplicates().itertuples(index=False):
        group = kept[(kept["model"] == model) & (kept["trials"] == trials)]
        yield from _rows(model, str(trials), group, group["seconds"] / trials)
    for model in kept["model"].unique():
        own = kept[kept["model"] == model]
        first, last = (
            own[own["trials"] == one].set_index(["way", "turn"])
            for one in (own["trials"].min(), own["trials"].max())
        )
        further = (last["seconds"] - first["seconds"]) / (last["trials"] - first["trials"])
        table = last.reset_index()
        yield from _rows(model, "each further", table, further.reset_index(drop=True))


def _rows(model: str, trials: str, group: pd.DataFrame, each: pd.Series[float]) -> Iterator[str]:
    """A row per way: seconds of a trial, their share of the first way's, memory."""
    usual = median(each[group["way"] == next(iter(WAYS))])
    for way in WAYS:
        own = group["way"] == way
        seconds, held = each[own], group[own]["bytes"].median() / MEBIBYTE
        spread = f" ({seconds.min():.2f} to {seconds.max():.2f})" if len(seconds) > 1 else ""
        yield (
            f"| {model} | {way} | {trials} | {seconds.median():.2f}{spread} |"
            f" {seconds.median() / usual:.2f} | {held:,.0f} |"
        )


def checked(kept: pd.DataFrame) -> str:
    """How far the losses of the two ways to train the upper quarter are apart, in a sentence."""
    ways = list(WAYS)[1:]
    losses = kept[kept["way"].isin(ways)].groupby(["model", "turn", "trials"])["loss"]
    apart = (losses.max() - losses.min()).max()
    return (
        "The two ways to train the upper quarter came to the same last losses, but for rounding:"
        f" {apart:.1g} at most."
    )
