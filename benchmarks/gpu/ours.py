"""This project as a sweep's worker sets it up, from models that were made on the device."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import BETA, LORA_RANK, RATE, Bench
from benchmarks.gpu.clock import StepClock, gemm_tflops, peak
from benchmarks.memory import shapes
from dpo_bench.contract import get_loss
from dpo_bench.data.tokenized import TokenizedPairs
from dpo_bench.experiment.config import LoRA, Training
from dpo_bench.model.activation_checkpointing import checkpoint_layers
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.compile_layers import compile_alike
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.lora import with_adapter
from dpo_bench.model.narrow_weights import narrow_weights
from dpo_bench.training.memory import MemoryPlan, Setting, plan_memory
from dpo_bench.training.probe import confirmed_tokens
from dpo_bench.training.reference_model import CachedReference
from dpo_bench.training.trainer import Trainer

Say = Callable[[dict[str, Any]], None]
DRY_MEMORY = 80 << 30
"""Of the card that a dry run plans for."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Policy and reference, and how they fit.

    Attributes:
        policy: is trained.
        reference: where it starts.
        plan: of the card's memory.
        settings: the trainer's.
    """

    policy: LogprobBackend
    reference: LogprobBackend
    plan: MemoryPlan
    settings: Training


def set_up(bench: Bench, shape: str, pairs: TokenizedPairs, *, lora: bool) -> Pair:
    """Policy and reference as `dpo_bench.sweep.context.WorkerContext` has them in bf16."""
    settings = Training(
        learning_rate=RATE,
        schedule="constant",
        warmup_fraction=0.0,
        pairs_per_step=bench.pairs_per_step,
        steps=bench.steps,
        checkpoint_seconds=1e9,
        lora=LoRA(rank=LORA_RANK) if lora else None,
    )
    reference = backend(bench, shape, pairs.longest)
    reference.model.requires_grad_(requires_grad=False)
    narrow_weights(reference)
    if lora:
        policy = with_adapter(reference, LoRA(rank=LORA_RANK), "benchmark")
    else:
        policy = backend(bench, shape, pairs.longest)
    narrow_weights(policy)
    policy.packs = reference.packs = policy.packs and reference.packs
    plan = _plan(bench, shape, settings, pairs)
    if plan.checkpointing:
        checkpoint_layers(policy.model)
    if bench.device == "cuda":
        compile_alike([policy, reference])
        policy.most_tokens = confirmed_tokens(plan, policy, pairs)
    else:
        policy.most_tokens = plan.tokens
    reference.most_tokens = policy.most_tokens
    return Pair(policy, reference, plan, settings)


def backend(bench: Bench, shape: str, longest: int) -> LogprobBackend:
    """A model with its kernel path."""
    return choose_backend(bench.model(shape), "bf16", longest)


def _plan(bench: Bench, shape: str, settings: Training, pairs: TokenizedPairs) -> MemoryPlan:
    rank = None if settings.lora is None else settings.lora.rank
    changes = bench.shape(shape)
    dry = bench.device == "cpu"
    setting = Setting(
        device="cuda",
        precision="bf16",
        memory=DRY_MEMORY if dry else torch.cuda.mem_get_info()[1],
        longest=int(pairs.sizes.max()),
        rows=1,
        sampled=1,
    )
    skeleton = shapes.policy(shape, rank, **changes)
    return plan_memory(
        skeleton,
        None if rank else shapes.model(shape, **changes),
        settings,
        pairs,
        setting,
        copies_start=False,
        moves_reference=True,
    )


def train(bench: Bench, say: Say, shape: str, lengths: str, *, lora: bool = False) -> None:
    """Steps of DPO, the reference's log-probs computed before."""
    started = time.perf_counter()
    pairs = bench.pairs(lengths, bench.shape(shape)["vocab_size"])
    pair = set_up(bench, shape, pairs, lora=lora)
    clock = StepClock(bench.device, bench.warm, bench.timed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(pair, pairs, Path(folder), clock.tick)
        if pair.plan.is_on_host:
            pair.reference.leave()
        if bench.device == "cuda":
            torch.cuda.synchronize()
        preparing = time.perf_counter() - started
        result = trainer.run()
    policy = pair.policy
    say(
        {
            "step_seconds": clock.seconds(),
            "preparing": preparing,
            "syncs": clock.syncs,
            **peak(bench.device),
            "first_loss": result.initial_loss,
            "how": {
                "log_probs": policy.numerics,
                "tokens_per_pass": policy.tokens_per_pass(),
                "checkpointing": pair.plan.checkpointing,
                "reference_on_host": pair.plan.is_on_host,
            },
        }
    )
    del trainer, pair
    say({"card_tflops": gemm_tflops(bench.device, dry=bench.dry)})


def trainer_of(
    pair: Pair,
    pairs: TokenizedPairs,
    folder: Path,
    after_step: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> Trainer:
    """The trainer of a set-up; its reference is computed when it is made."""
    reference = CachedReference(pair.reference, pairs, "benchmark", pair.policy.numerics)
    return Trainer(
        pair.policy,
        get_loss("dpo").at({"beta": BETA}),
        pairs=pairs,
        reference=reference,
        settings=pair.settings.model_copy(update=changes),
        seed=0,
        checkpoint=folder / "checkpoint",
        after_step=after_step,
    )
