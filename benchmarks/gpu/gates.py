"""What must be exact, tried on the card itself: the suite shows the same on a CPU."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.ours import Pair, set_up, trainer_of
from dpo_bench.data.tokenized import TokenizedPairs
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.linear_head import target_logps
from dpo_bench.model.logprobs import batch_logps
from dpo_bench.progress import Control
from dpo_bench.training.trainer import StoppedError

Say = Callable[[dict[str, Any]], None]
Found = tuple[str, float, float, str]
"""What is tried, how far it is off, how far it may be, and the unit."""
SHAPE = "135M (SmolLM2)"
HEAD_WORSE = 1e-4
"""Nats by which a token's log-prob from a head in bf16 with fp32 sums may be off, given its inputs;
fp32 of 50,000 to 130,000 tokens' logits around 10 is rounded by about 1e-5."""
PACKED_WORSE = 1e-4
"""Share of a response's log-prob, in fp32."""
STEPS, STOP = 4, 2


def measure(bench: Bench, say: Say) -> None:
    """Try every gate; one that breaks off leaves the others."""
    shape = bench.shape(SHAPE)
    pairs = bench.pairs("UltraFeedback-like", shape["vocab_size"], 8 if bench.dry else 64)
    pair = set_up(bench, SHAPE, pairs, lora=False)
    gates: tuple[Callable[[Bench, Pair, TokenizedPairs], Iterator[Found]], ...] = (
        _start,
        _neighbors,
        _head,
        _packed,
        _resumed,
    )
    for gate in gates:
        try:
            for name, off, most, unit in gate(bench, pair, pairs):
                passed = off <= most
                say({"gate": name, "off": off, "most": most, "unit": unit, "passed": passed})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            say({"gate": gate.__name__.strip("_"), "passed": False, "reason": reason})


def _start(bench: Bench, pair: Pair, pairs: TokenizedPairs) -> Iterator[Found]:
    """A policy that equals its reference has a loss of ln 2, and no log-ratio but zero."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(pair, pairs, Path(folder), steps=1)
        reference = trainer.update.reference
        assert reference is not None
        sums = reference.all_sums
        ratios = _logps(pair, pairs, range(len(pairs))) - torch.cat([sums.chosen, sums.rejected])
        yield "log-ratios before the first step, largest", float(ratios.abs().max()), 0.0, "nat"
        expected = float(torch.tensor(math.log(2)))
        loss = trainer.run().initial_loss
        yield "loss of the first step against ln 2", abs(loss - expected), 0.0, "nat"


def _logps(pair: Pair, pairs: TokenizedPairs, indices: range) -> Tensor:
    """Log-probs of chosen and then rejected responses; in passes of eight pairs."""
    found = []
    with torch.no_grad():
        for at in range(0, len(indices), 8):
            part = pair.policy.batch(pairs, indices[at : at + 8])
            found.append(batch_logps(pair.policy, part).view(2, -1))
    return torch.cat(found, 1).flatten()


def _neighbors(bench: Bench, pair: Pair, pairs: TokenizedPairs) -> Iterator[Found]:
    """A pair has the same bits alone and among others."""
    some = range(min(8, len(pairs)))
    together = _logps(pair, pairs, some).view(2, -1)
    alone = torch.cat([_logps(pair, pairs, range(one, one + 1)).view(2, 1) for one in some], 1)
    yield "log-probs alone and beside others", float((together - alone).abs().max()), 0.0, "nat"


def _head(bench: Bench, pair: Pair, pairs: TokenizedPairs) -> Iterator[Found]:
    """The head of 1B on 256 tokens against fp64."""
    shape = bench.shape("1B (Llama 3.2)")
    width, vocabulary = shape["hidden_size"], shape["vocab_size"]
    generator = torch.Generator(bench.device).manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=bench.device)

    states = drawn(256, width).bfloat16()
    weight = (drawn(vocabulary, width) * 3 / math.sqrt(width)).bfloat16()
    target = torch.randint(0, vocabulary, (256,), generator=generator, device=bench.device)
    ours = target_logps(states, weight, None, target, 128)
    worst = 0.0
    for at in range(0, 256, 64):
        logits = linear(states[at : at + 64].double(), weight.double())
        exact = log_softmax(logits, -1).gather(-1, target[at : at + 64, None]).squeeze(-1)
        worst = max(worst, float((ours[at : at + 64] - exact).abs().max()))
    yield "head of 1B against fp64, a token", worst, HEAD_WORSE, "nat"


def _packed(bench: Bench, pair: Pair, pairs: TokenizedPairs) -> Iterator[Found]:
    """Packed with shared prompts against padded, in fp32."""
    backend = choose_backend(bench.model(SHAPE), "fp32", pairs.longest)
    if not backend.packs:
        raise RuntimeError("packing was found not to be exact")
    indices = range(min(8, len(pairs)))
    with torch.no_grad():
        packed = batch_logps(backend, backend.batch(pairs, indices))
        backend.packs = False
        padded = batch_logps(backend, backend.batch(pairs, indices))
    off = float(((packed - padded) / padded).abs().max())
    yield "packed against padded, in fp32", off, PACKED_WORSE, "of the log-prob"


def _resumed(bench: Bench, pair: Pair, pairs: TokenizedPairs) -> Iterator[Found]:
    """Stopped and resumed against uninterrupted, and how far that is from itself.

    Where a kernel adds in any order (attention's backward pass on a GPU), a run repeated is not the
    same run either; resuming may be off by as much, and no more.
    """
    weights = {name: one.detach().clone() for name, one in pair.policy.optimized().items()}

    def run(*, stop: bool) -> list[Tensor]:
        with pair.policy.full_precision(), torch.no_grad():
            for name, one in pair.policy.optimized().items():
                one.copy_(weights[name])
        with tempfile.TemporaryDirectory() as folder:
            changes: dict[str, Any] = {"steps": STEPS, "pairs_per_step": 2, "learning_rate": 1e-4}
            trainer = trainer_of(pair, pairs, Path(folder), **changes)
            if stop:
                asked = itertools.count(1)
                trainer.control = Control(should_stop=lambda: next(asked) >= STOP)
                try:
                    trainer.run()
                except StoppedError:
                    trainer = trainer_of(pair, pairs, Path(folder), **changes)
            trainer.run()
        return [one.detach().clone() for one in pair.policy.optimized().values()]

    first, again, resumed = run(stop=False), run(stop=False), run(stop=True)
    moved = _farthest(first, list(weights.values()))
    if moved == 0:
        raise RuntimeError("training changed no weight, so resuming shows nothing")
    repeated = _farthest(first, again)
    yield "a run against itself, largest weight", repeated, math.inf, f"(moved by {moved:.2g})"
    yield "resumed against uninterrupted, largest weight", _farthest(first, resumed), repeated, ""


def _farthest(ones: list[Tensor], others: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ones, others, strict=True))
