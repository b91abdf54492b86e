"""Every loss, end to end on the embedded world: it descends from its L0, and accuracy rises."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dpo_bench import get_loss
from dpo_bench.catalogue.cards import shipped_losses
from dpo_bench.data.batches import pad_batch
from dpo_bench.data.prepare import prepare_pairs
from dpo_bench.experiment.config import Data, Training, World
from dpo_bench.model.load import load_model, load_tokenizer
from dpo_bench.model.logprobs import LogprobBackend, choose_backend, sum_by_row, token_logps
from dpo_bench.model.source import resolve_model
from dpo_bench.training.reference_model import CachedReference
from dpo_bench.training.trainer import Trainer, TrainingResult
from dpo_bench.worlds import world_model, world_preferences

WORLD = World(pairs=320)
SETTINGS = Training(learning_rate=1e-3, steps=20, pairs_per_step=16)
HELDOUT = 128

SETTING: dict[str, dict[str, float]] = {
    "sppo": {"beta": 0.03},
    "nca": {"beta": 0.1},
    "bco": {"beta": 0.1},
    "dpop": {"lam": 1.0},
    "discopop": {"beta": 0.25, "tau": 0.5},
    "alpha_po": {"alpha": 0.02, "gamma_beta_ratio": 0.5},
    "slic": {"delta": 10.0},
}
"""Where the paper's setting moves too little in 20 steps, or the wrong way first (see the docs)."""

COMPOSED = ["js(dpo)", "wpo(dpo)", "nll(dpo)", "0.8*dpo + 0.2*bco + 1.0*sft"]


@dataclass(frozen=True)
class Outcome:
    """Of a run: the loss of the same training pairs at the reference (L0) and after it.

    The held-out accuracy starts at .5, every margin being 0.
    """

    result: TrainingResult
    start: float
    after: float
    accuracy: float


class WorkerContext:
    """World, pairs and models that all runs share."""

    def __init__(self) -> None:
        folder = world_model("reviews", WORLD)
        source = resolve_model("world:reviews", world=WORLD)
        tokenizer = load_tokenizer(source)
        preferences = str(world_preferences("reviews", WORLD))
        self.training, heldout, _ = prepare_pairs(preferences, tokenizer, Data())
        self.heldout = heldout.take(range(HELDOUT))
        self.policy, frozen = (choose_backend(load_model(source, "cpu")) for _ in range(2))
        frozen.model.requires_grad_(requires_grad=False)
        self.initial = {k: v.clone() for k, v in self.policy.model.state_dict().items()}
        self.reference = CachedReference(frozen, self.training, str(folder), "cpu/fp32")
        self.before = self.margins(frozen)

    def margins(self, backend: LogprobBackend) -> Tensor:
        """Log-prob of the chosen minus the rejected held-out response, shape [pair]."""
        batch = pad_batch(self.heldout, range(HELDOUT))
        with torch.no_grad():
            chosen, rejected = sum_by_row(token_logps(backend, batch), batch.lengths).chunk(2)
        return chosen - rejected

    def run(self, name: str, checkpoint: Path) -> Outcome:
        """Train, and measure what came of it."""
        self.policy.model.load_state_dict(self.initial)
        objective = get_loss(name).at(SETTING.get(name, {}))
        trainer = Trainer(
            self.policy,
            objective,
            pairs=self.training,
            reference=self.reference,
            settings=SETTINGS,
            seed=0,
            checkpoint=checkpoint,
        )
        result = trainer.run()
        with torch.no_grad():
            measurer = trainer.update.measurer
            record = measurer.with_batch_fields(measurer.record(measurer.inputs(range(HELDOUT))))
            after, start = objective(record).mean(), objective(record.at_reference()).mean()
        accuracy = (self.margins(self.policy) > self.before).float().mean()
        return Outcome(result, float(start), float(after), float(accuracy))


@pytest.fixture(scope="module")
def bench() -> Iterator[WorkerContext]:
    """In a cache of its own choice when one is given, so that the world is built once."""
    before = os.environ["DPO_BENCH_CACHE"]
    os.environ["DPO_BENCH_CACHE"] = os.environ.get("DPO_BENCH_TEST_WORLDS", before)
    try:
        yield WorkerContext()
    finally:
        os.environ["DPO_BENCH_CACHE"] = before


@pytest.mark.parametrize("name", [*shipped_losses(), *COMPOSED])
def test_loss_descends_and_accuracy_rises(bench: WorkerContext, tmp_path: Path, name: str) -> None:
    outcome = bench.run(name, tmp_path / "checkpoint.pt")
    expected = outcome.result.initial_loss_expected
    assert outcome.result.initial_loss == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert outcome.after < outcome.start - 1e-4 * abs(outcome.start)
    assert outcome.accuracy > 0.55
