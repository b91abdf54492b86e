"""Training on several ranks, against training in one process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dpo_bench import get_loss
from dpo_bench.experiment.config import LoRA, Training
from dpo_bench.model.load import load_model
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.logprobs import choose_backend
from dpo_bench.model.lora import reset_adapter, with_adapter
from dpo_bench.model.ranks import ALONE, Ranks
from dpo_bench.model.sharded import gathered, share_backend
from dpo_bench.progress import Control
from dpo_bench.training.reference_model import CachedReference
from dpo_bench.training.trainer import StoppedError, Trainer
from dpo_bench.training.weights import trained_weights
from tests.conftest import tiny_folder
from tests.ranks import run_on_ranks
from tests.training.test_trainer import PAIRS

Weights = dict[str, Tensor]


class Case(NamedTuple):
    """What is trained.

    Attributes:
        folder: of the model.
        loss: its name.
        double: in fp64, else in fp32.
        lora: an adapter alone.
        precision: ``fp32`` or ``bf16``.
        settings: of training.
    """

    folder: Path
    loss: str
    double: bool = True
    lora: bool = False
    precision: str = "fp32"
    settings: dict[str, Any] | None = None


class Trained(NamedTuple):
    """Metrics by step, none where the run was stopped, and the weights at the end."""

    metrics: Mapping[Any, list[float]]
    weights: Weights


def backends(case: Case) -> tuple[LogprobBackend, LogprobBackend]:
    """Policy and reference, whole."""
    models = [load_model(case.folder) for _ in range(2)]
    if case.double:
        models = [model.double() for model in models]
    policy, reference = (choose_backend(model, case.precision) for model in models)
    reference.model.requires_grad_(requires_grad=False)
    if case.lora:
        policy = with_adapter(reference, LoRA(rank=4, alpha=16), "tiny")
    return policy, reference


def train(ranks: Ranks, case: Case, out: Path, stop: int = 0) -> Trained:
    """Train, until the control says stop after so many steps."""
    policy, reference = backends(case)
    if not ranks.alone:
        policy = share_backend(ranks, "policy", policy, "cpu")
        reference = share_backend(ranks, "reference", reference, "cpu")
    if case.lora:
        ranks.call(reset, policy)
    settings = {"steps": 4, "pairs_per_step": 7, "learning_rate": 1e-3, "checkpoint_seconds": 1e9}
    seen = iter(range(1, 100))
    trainer = Trainer(
        policy,
        get_loss(case.loss),
        pairs=PAIRS,
        reference=CachedReference(reference, PAIRS, f"{case} on {ranks.size}", "cpu/fp32"),
        settings=Training(**{**settings, **(case.settings or {})}),
        seed=1,
        checkpoint=out,
        control=Control(should_stop=lambda: next(seen) == stop),
    )
    try:
        metrics = trainer.run().metrics.to_dict("list")
    except StoppedError:
        metrics = {}
    return Trained(metrics, ranks.call(weights_of, policy))


def train_all(ranks: Ranks, cases: list[Case], out: Path) -> list[Trained]:
    """One after another on the same ranks, as a sweep does."""
    return [train(ranks, case, out / str(number)) for number, case in enumerate(cases)]


def reset(policy: LogprobBackend) -> None:
    reset_adapter(policy.model, 3)


def weights_of(policy: LogprobBackend) -> Weights:
    return {name: gathered(value).clone() for name, value in trained_weights(policy.model).items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "untied": tiny_folder(tmp_path_factory, "llama", tie_word_embeddings=False),
        "tied": tiny_folder(tmp_path_factory, "llama", tie_word_embeddings=True),
        "gpt2": tiny_folder(tmp_path_factory, "gpt2"),
    }


def all_cases(folders: dict[str, Path]) -> list[Case]:
    """Every kind of need and coupling, tied and untied, all weights and adapters, many passes."""
    untied, tied = folders["untied"], folders["tied"]
    losses = ("dpo", "simpo", "ld_dpo", "odpo", "tdpo2", "aot", "kto", "bco")
    return [
        *(Case(untied, loss) for loss in losses),
        Case(tied, "dpo"),
        Case(tied, "aot"),
        Case(folders["gpt2"], "dpo"),
        Case(untied, "dpo", lora=True),
        Case(tied, "kto", lora=True),
        Case(untied, "dpo", settings={"tokens_per_pass": 24}),
        Case(tied, "bco", settings={"pairs_per_pass": 1}),
        Case(untied, "dpo", settings={"pairs_per_step": 1}),
        Case(untied, "ipo", settings={"optimizer": "rmsprop", "max_gradient_norm": 0.01}),
        Case(untied, "dpo", double=False),
        Case(tied, "aot", double=False),
        Case(untied, "dpo", double=False, lora=True),
    ]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_on_several_ranks_equals_that_of_one_process(
    folders: dict[str, Path], tmp_path: Path, size: int
) -> None:
    cases = all_cases(folders)
    found = run_on_ranks(size, tmp_path / "ranks", train_all, cases, tmp_path / "divided")
    for number, case in enumerate(cases):
        alone = train(ALONE, case, tmp_path / "alone" / str(number))
        moved = 0.0
        for name, value in alone.weights.items():
            tolerance = 1e-12 if case.double else 2e-6
            assert (found[number].weights[name] - value).abs().max() <= tolerance, (case, name)
            moved = max(moved, float(value.abs().max()))
        assert moved > 0
        assert found[number].weights.keys() == alone.weights.keys()
        for name, values in alone.metrics.items():
            # Metrics are kept in fp32.
            assert found[number].metrics[name] == pytest.approx(values, rel=2e-5, abs=2e-6), case


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("lora", [False, True])
def test_a_run_goes_on_with_another_number_of_ranks(
    folders: dict[str, Path], tmp_path: Path, before: int, after: int, lora: bool
) -> None:
    case = Case(folders["tied"], "bco", lora=lora)
    whole = train(ALONE, case, tmp_path / "whole")
    out = tmp_path / "checkpoint"

    def on(size: int, stop: int) -> Trained:
        if size == 1:
            return train(ALONE, case, out, stop)
        found: Trained = run_on_ranks(size, tmp_path / f"{stop}", train, case, out, stop)
        return found

    assert on(before, 2).metrics == {}
    found = on(after, 0)
    assert len(found.metrics["loss"]) == 4
    # The mean of three is rounded, which Adam's first steps magnify where a gradient is all but 0.
    tolerance = 1e-7 if after == 3 else 1e-12
    for name, value in whole.weights.items():
        assert (found.weights[name] - value).abs().max() <= tolerance, name


@pytest.mark.parametrize("lora", [False, True])
def test_in_bf16_shares_are_fp32_and_a_policy_at_its_reference_is_exactly_there(
    folders: dict[str, Path], tmp_path: Path, lora: bool
) -> None:
    case = Case(folders["untied"], "dpo", double=False, lora=lora, precision="bf16")
    found = run_on_ranks(2, tmp_path / "ranks", train, case, tmp_path / "checkpoint")
    assert found.metrics["loss"][0] == pytest.approx(math.log(2), abs=1e-7)
    assert found.metrics["margin"][0] == 0
    assert found.metrics["chosen_logratio"][0] == 0
    assert {value.dtype for value in found.weights.values()} == {torch.float32}
    precise = train(ALONE, case._replace(precision="fp32"), tmp_path / "fp32")
    for name in ("loss", "gradient_norm"):
        assert found.metrics[name] == pytest.approx(precise.metrics[name], rel=0.05)
