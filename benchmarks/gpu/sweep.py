"""A sweep of three trials from the command line to the report, at 135M."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.bench import END, PAD, Bench
from tests.tiny import save_tokenizer

Say = Callable[[dict[str, Any]], None]
SHAPE = "135M (SmolLM2)"
LETTERS = "abcdefghijklmnopqrstuvwxyz "
BETAS = "0.05,0.1,0.3"


def three_trials(bench: Bench, say: Say) -> None:
    """Wall time of everything, and of each trial's training and evaluation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save(bench, folder / "model")
        _write_pairs(bench, folder / "pairs.jsonl")
        command = [sys.executable, "-m", "dpo_bench", "sweep", *_options(bench, folder)]
        environment = {**os.environ, "DPO_BENCH_CACHE": str(folder / "cache"), "NO_COLOR": "1"}
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"sweep ended with {done.returncode}: {done.stderr[-1000:]}")
        manifests = [json.loads(one.read_text()) for one in folder.rglob("manifest.json")]
    trials = [one["seconds"] for one in manifests if one.get("status") == "done"]
    if len(trials) != len(BETAS.split(",")):
        raise RuntimeError(f"{len(trials)} trials are done: {done.stdout[-1000:]}")
    say({"sweep_seconds": seconds, "trials": trials})


def _options(bench: Bench, folder: Path) -> list[str]:
    settings = {
        "training.device": bench.device,
        "training.precision": "bf16",
        "training.steps": 2 if bench.dry else 30,
        "training.pairs_per_step": bench.pairs_per_step,
        "evaluation.prompts": 4 if bench.dry else 128,
        "evaluation.samples_per_prompt": 2,
        "evaluation.max_new_tokens": 4 if bench.dry else 64,
        "evaluation.reference_samples": 4,
        "evaluation.resamples": 100,
    }
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [
        *("--policy", str(folder / "model"), "--preferences", str(folder / "pairs.jsonl")),
        *("--reward", "none", "--losses", "dpo", "--beta", BETAS, "--seeds", "0"),
        *("--out", str(folder / "out"), "--workers", "1", "--quiet", *given),
    ]


def _save(bench: Bench, folder: Path) -> None:
    """A model of the shape with random weights, and a tokenizer of bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    save_tokenizer(folder, [LETTERS])
    shape = bench.shape(SHAPE)
    config = LlamaConfig(
        **shape, max_position_embeddings=2048, bos_token_id=None, eos_token_id=END, pad_token_id=PAD
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _write_pairs(bench: Bench, file: Path) -> None:
    """Texts of random letters, a token or so each."""
    generator = np.random.default_rng(0)
    prompt, response = (8, 12) if bench.dry else (100, 200)

    def text(most: int) -> str:
        length = int(generator.integers(most // 2, most + 1))
        return "".join(generator.choice(list(LETTERS), length)).strip() + "x"

    rows = [
        {"prompt": text(prompt), "chosen": text(response), "rejected": text(response)}
        for _ in range(24 if bench.dry else 1200)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
