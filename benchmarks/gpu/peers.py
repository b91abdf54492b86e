"""Other trainers on the same pairs: TRL as it comes and tuned, and texts packed by transformers."""

from __future__ import annotations

import copy
import gc
import importlib.util
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.gpu.bench import BETA, LORA_RANK, RATE, Bench
from benchmarks.gpu.clock import StepClock, gemm_tflops, peak
from benchmarks.versus_trl.contenders import columns
from dpo_bench.data.batches import step_order
from dpo_bench.data.tokenized import TokenizedPairs

Say = Callable[[dict[str, Any]], None]
TRIED = (16, 8, 4, 2, 1)
"""Pairs of a forward pass that TRL tuned tries, until one fits."""
PACKED_TOKENS = (16384, 8192, 4096, 2048)
"""Tokens of a forward pass that the packed loop tries."""


def trl(bench: Bench, say: Say, shape: str, lengths: str, *, tuned: bool, lora: bool) -> None:
    """TRL's DPOTrainer.

    As it comes: its defaults but for the optimizer's rate, with 32 pairs a step. Tuned: reference
    computed before, no gradient checkpointing, as many pairs a pass as fit, Liger's kernels where
    they are, and with an adapter the frozen weights in bf16.
    """
    if not tuned:
        _trl(bench, say, shape, lengths, lora=lora, options=_batch(bench, bench.pairs_per_pass))
        return
    dtype = torch.bfloat16 if lora else torch.float32
    best: dict[str, Any] = {"precompute_ref_log_probs": True, "max_length": None}
    if bench.device == "cuda" and importlib.util.find_spec("liger_kernel") is not None:
        best["use_liger_kernel"] = True

    def attempt(size: int) -> None:
        options = {**best, **_batch(bench, size), "gradient_checkpointing": False}
        _trl(bench, say, shape, lengths, lora=lora, options=options, dtype=dtype)

    sizes = [size for size in TRIED if size <= bench.pairs_per_step]
    if first_that_fits(sizes, attempt):
        return
    options = {**best, **_batch(bench, bench.pairs_per_pass)}
    _trl(bench, say, shape, lengths, lora=lora, options=options, dtype=dtype)


def first_that_fits(sizes: Sequence[int], attempt: Callable[[int], None]) -> bool:
    """Try sizes until the memory suffices; whether one did."""
    for size in sizes:
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            pass
        else:
            return True
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return False


def _batch(bench: Bench, size: int) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": bench.pairs_per_step // size,
    }


def _trl(
    bench: Bench,
    say: Say,
    shape: str,
    lengths: str,
    *,
    lora: bool,
    options: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    from trl.trainer.dpo_config import DPOConfig

    os.environ["TQDM_DISABLE"] = "1"
    started = time.perf_counter()
    pairs = bench.pairs(lengths, bench.shape(shape)["vocab_size"])
    model = bench.model(shape, dtype)
    config: Any = DPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-"),
        learning_rate=RATE,
        lr_scheduler_type="constant",
        beta=BETA,
        max_steps=bench.steps,
        bf16=True,
        use_cpu=bench.device == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    precomputes = bool(options.get("precompute_ref_log_probs"))
    reference = None if lora or precomputes else copy.deepcopy(model)
    clock = StepClock(bench.device, bench.warm, bench.timed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(bench, folder, model, reference, config, pairs, clock, lora=lora)
        preparing = time.perf_counter() - started
        trainer.train()
    say(
        {
            "step_seconds": clock.seconds(),
            "preparing": preparing,
            "syncs": clock.syncs,
            **peak(bench.device),
            "how": {**options, "weights": str(dtype).removeprefix("torch.")},
        }
    )
    say({"card_tflops": gemm_tflops(bench.device, dry=bench.dry)})


def _trainer(
    bench: Bench,
    folder: str,
    model: Any,
    reference: Any,
    config: Any,
    pairs: TokenizedPairs,
    clock: StepClock,
    *,
    lora: bool,
) -> Any:
    """TRL's trainer on token ids, in the order in which this project trains on them."""
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer, TrainerCallback
    from trl.trainer.dpo_trainer import DPOTrainer

    from tests.tiny import save_tokenizer

    class Told(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    class Unshuffled(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(cast("Any", self.train_dataset))

    order = step_order(len(pairs), bench.pairs_per_step, bench.steps, seed=0)
    save_tokenizer(Path(folder), ["a few words for a tokenizer that is never asked"])
    adapter = LoraConfig(r=LORA_RANK, lora_alpha=32, target_modules="all-linear")
    return Unshuffled(
        model,
        reference,
        args=config,
        train_dataset=Dataset.from_dict(columns(pairs.take([*itertools.chain(*order)]))),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=adapter if lora else None,
        callbacks=[Told()],
    )


def packed_loop(bench: Bench, say: Say, shape: str, lengths: str) -> None:
    """A plain loop over texts that transformers packs, as the packed trainers in use do it.

    Prompt with response one after another without padding, each prompt twice; reference computed
    before; the head at response positions alone; autocast over fp32 weights.
    """

    def attempt(tokens: int) -> None:
        _packed(bench, say, shape, lengths, tokens)

    if not first_that_fits(PACKED_TOKENS, attempt):
        raise RuntimeError(f"not even passes of {PACKED_TOKENS[-1]} tokens fit")


def _packed(bench: Bench, say: Say, shape: str, lengths: str, tokens: int) -> None:
    started = time.perf_counter()
    pairs = bench.pairs(lengths, bench.shape(shape)["vocab_size"])
    model = bench.model(shape)
    flash = bench.device == "cuda" and importlib.util.find_spec("flash_attn") is not None
    attention = "flash_attention_2" if flash else "sdpa"
    model.set_attn_implementation(attention)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, weight_decay=0.0, fused=bench.device == "cuda"
    )
    order = step_order(len(pairs), bench.pairs_per_step, bench.steps, seed=0)
    with torch.no_grad():
        reference = {
            index: values
            for step in order
            for part in _passes(pairs, step, tokens)
            for index, values in zip(part, _logps(bench, model, pairs, part).t(), strict=True)
        }
    clock = StepClock(bench.device, bench.warm, bench.timed)
    preparing = time.perf_counter() - started
    first = None
    for step in order:
        total: Any = 0.0
        for part in _passes(pairs, step, tokens):
            logps = _logps(bench, model, pairs, part)
            ratios = logps - torch.stack([reference[index] for index in part], 1)
            loss = -logsigmoid(BETA * (ratios[0] - ratios[1])).sum() / len(step)
            loss.backward()
            total = total + loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        first = total if first is None else first
        clock.tick()
    say(
        {
            "step_seconds": clock.seconds(),
            "preparing": preparing,
            "syncs": clock.syncs,
            **peak(bench.device),
            "first_loss": float(cast("Tensor", first)),
            "how": {"tokens_per_pass": tokens, "attention": attention},
        }
    )
    say({"card_tflops": gemm_tflops(bench.device, dry=bench.dry)})


def _passes(pairs: TokenizedPairs, step: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Pairs in their order, as many as a pass takes with both copies of their prompts."""
    sizes = pairs.sizes + pairs.prompt.lengths
    part: list[int] = []
    for index in step:
        if part and sizes[[*part, index]].sum() > tokens:
            yield part
            part = []
        part.append(index)
    yield part


def _logps(bench: Bench, model: Any, pairs: TokenizedPairs, part: Sequence[int]) -> Tensor:
    """Log-probs of chosen and rejected responses; shape [2, pair]."""
    ids: list[Any] = []
    places, asked, owner = [], [], []
    for number, (side, index) in enumerate(itertools.product((1, 2), part)):
        prompt, response = pairs.pair(index)[0], pairs.pair(index)[side]
        start = sum(len(one) for one in ids)
        ids.append(np.concatenate([prompt, response]))
        places.append(np.arange(len(ids[-1])))
        asked.append(start + len(prompt) - 1 + np.arange(len(response)))
        owner.append(np.full(len(response), number))

    def sent(arrays: list[Any]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays).astype(np.int64)).to(bench.device)

    rows, positions, where, owners = sent(ids), sent(places), sent(asked), sent(owner)
    with torch.autocast(bench.device, dtype=torch.bfloat16):
        logits = model(
            input_ids=rows[None], position_ids=positions[None], logits_to_keep=where
        ).logits[0]
    every = logits.float().log_softmax(-1).gather(-1, rows[where + 1, None]).squeeze(-1)
    sums: Tensor = every.new_zeros(2 * len(part)).index_add(0, owners, every)
    return sums.view(2, -1)
