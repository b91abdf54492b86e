"""Trials whose lower layers are computed once have the bits of those that compute them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from dpo_bench import get_loss
from dpo_bench.data.resample import bootstrap_pairs
from dpo_bench.experiment.config import LoRA
from dpo_bench.model.activation_checkpointing import decoder_layers
from dpo_bench.model.choose_lower_layers import share_lower_layers
from dpo_bench.model.load import load_model
from dpo_bench.model.logprobs import choose_backend
from dpo_bench.model.lora import reset_adapter, with_adapter
from dpo_bench.training.reference_model import CachedReference
from dpo_bench.training.trainer import StoppedError, Trainer, TrainingResult
from dpo_bench.training.weights import trained_weights
from tests.conftest import tiny_folder
from tests.training.test_trainer import PAIRS, SETTINGS, stop_after

LAYERS = 4
ROOM = 1 << 24
Adapter = dict[str, Tensor]


class Worker:
    """One frozen model, the adapter in its uppermost layer, and what a worker does with them.

    Args:
        folder: of the model.
        cache: of reference log-probs; each worker computes its own.
        room: bytes for the lower layers' states; 0: they are computed each time; None: in the
            passes of all layers.
    """

    def __init__(self, folder: Path, cache: Path, room: int | None) -> None:
        self.base = choose_backend(load_model(folder).requires_grad_(False), "fp32", PAIRS.longest)
        self.policy = with_adapter(self.base, LoRA(rank=4, alpha=16, layers="top:1"), "tiny")
        both = [self.policy, self.base]
        self.lower = None if room is None else share_lower_layers(both, LAYERS - 1, room, PAIRS)
        self.reference = CachedReference(self.base, PAIRS, str(cache), "cpu/fp32")

    def trainer(
        self, checkpoint: Path, loss: str, seed: int, changes: dict[str, Any], **options: Any
    ) -> Trainer:
        reset_adapter(self.policy.model, seed)
        return Trainer(
            self.policy,
            get_loss(loss),
            pairs=PAIRS,
            reference=self.reference,
            settings=SETTINGS.model_copy(update={"learning_rate": 1e-2, "steps": 5, **changes}),
            seed=seed,
            checkpoint=checkpoint,
            **options,
        )

    def run(
        self, checkpoint: Path, loss: str = "dpo", seed: int = 0, **changes: Any
    ) -> tuple[TrainingResult, Adapter]:
        result = self.trainer(checkpoint, loss, seed, changes).run()
        weights = trained_weights(self.policy.model)
        return result, {name: value.clone() for name, value in weights.items()}


@pytest.fixture(scope="module", params=["untied", "tied", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with grouped queries, whose embeddings are one matrix or two; and with biases."""
    if request.param == "gpt2":
        return tiny_folder(tmp_path_factory, "gpt2", n_layer=LAYERS)
    options = {"num_hidden_layers": LAYERS, "tie_word_embeddings": request.param == "tied"}
    return tiny_folder(tmp_path_factory, "llama", **options)


@pytest.fixture
def workers(folder: Path, tmp_path: Path) -> tuple[Worker, Worker]:
    """One that computes the lower layers' states each time, and one that keeps them."""
    found = Worker(folder, tmp_path / "anew", 0), Worker(folder, tmp_path / "kept", ROOM)
    assert all(worker.lower is not None for worker in found)
    return found


def assert_same(
    ours: tuple[TrainingResult, Adapter], theirs: tuple[TrainingResult, Adapter]
) -> None:
    pd.testing.assert_frame_equal(ours[0].metrics, theirs[0].metrics, check_exact=True)
    assert set(ours[1]) == set(theirs[1])
    for name, value in ours[1].items():
        assert torch.equal(value, theirs[1][name]), name


TRIALS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("dpo", 0, {}),
    ("ipo", 0, {"pairs_per_pass": 3}),  # passes of other pairs than before
    ("kto", 1, {"pairs_per_pass": 4}),  # the whole step together, in two passes each way
    ("aot", 2, {"tokens_per_pass": 60}),
    ("bco", 1, {}),
)


def test_several_trials_of_one_worker_have_the_same_bits(
    workers: tuple[Worker, Worker], tmp_path: Path
) -> None:
    anew, kept = workers
    for number, (loss, seed, changes) in enumerate(TRIALS):
        expected = anew.run(tmp_path / f"anew-{number}", loss, seed, **changes)
        assert_same(kept.run(tmp_path / f"kept-{number}", loss, seed, **changes), expected)
        assert expected[0].metrics["loss"].nunique() > 1
    assert kept.lower is not None
    # The reference computed all pairs before the first step, and nobody computed one again.
    assert kept.lower.room == ROOM - int(PAIRS.sizes.sum()) * 32 * 4
    calls: list[None] = []
    decoder_layers(kept.policy.model)[0].register_forward_hook(lambda *_: calls.append(None))
    kept.run(tmp_path / "again", "dpo", 3, steps=2)
    assert not calls


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_the_weights_are_those_of_passes_of_all_layers_but_for_rounding(
    folder: Path, tmp_path: Path, loss: str
) -> None:
    plain, kept = (Worker(folder, tmp_path / str(room), room) for room in (None, ROOM))
    expected = plain.run(tmp_path / "plain", loss, pairs_per_pass=4)
    found = kept.run(tmp_path / "kept", loss, pairs_per_pass=4)
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=2e-5)
        if "lora_B" in name:
            assert value.abs().max() > 1e-2


@pytest.mark.parametrize("room", [ROOM, 20_000])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(
    folder: Path, tmp_path: Path, room: int
) -> None:
    """In another worker, whose states come of other passes, and where not all of them fit."""
    first, second, third = (Worker(folder, tmp_path / str(at), room) for at in range(3))
    whole = first.run(tmp_path / "whole", "kto", 1)
    with pytest.raises(StoppedError):
        second.trainer(tmp_path / "parts", "kto", 1, {}, control=stop_after(2)).run()
    third.run(tmp_path / "other", seed=5, pairs_per_pass=5)
    assert third.trainer(tmp_path / "parts", "kto", 1, {}).first_step == 2
    assert_same(third.run(tmp_path / "parts", "kto", 1), whole)


def test_pairs_that_are_drawn_anew_are_found_by_their_content(folder: Path, tmp_path: Path) -> None:
    worker = Worker(folder, tmp_path / "kept", ROOM)
    assert worker.lower is not None
    _ = worker.reference.all_sums
    drawn = PAIRS.take(bootstrap_pairs(len(PAIRS), 4).tolist())
    worker.lower.asked = worker.lower.hits = 0
    worker.policy.states(worker.policy.batch(drawn, range(8)))
    assert worker.lower.hits == worker.lower.asked > 0
