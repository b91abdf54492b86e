"""Optimizer and learning rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpo_bench.experiment.config import Training
from dpo_bench.training.optimizer import build_optimizer, learning_rate
from tests.model.architectures import ARCHITECTURES, RECURRENT, tiny_model


def rates(**settings: object) -> list[float]:
    training = Training.model_validate({"learning_rate": 1.0, **settings})
    return [learning_rate(step, 10, training) for step in range(10)]


def test_warm_up_rises_linearly_to_the_peak() -> None:
    assert rates(warmup_fraction=0.4, schedule="constant") == pytest.approx(
        [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    )


def test_linear_falls_to_zero_one_step_after_the_last() -> None:
    assert rates(warmup_fraction=0.0, schedule="linear") == pytest.approx(
        [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    )


def test_cosine_is_half_way_in_the_middle() -> None:
    values = rates(warmup_fraction=0.0, schedule="cosine")
    assert values[0] == 1
    assert values[5] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)


def settings(**values: Any) -> Training:
    return Training.model_validate({"learning_rate": 0.5, "weight_decay": 0.1, **values})


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("rmsprop", torch.optim.RMSprop)]
)
def test_the_optimizer_is_the_one_asked_for(name: str, kind: type) -> None:
    layer = torch.nn.Linear(2, 2, bias=False)
    model = torch.nn.Sequential(layer, torch.nn.Linear(2, 2).requires_grad_(requires_grad=False))
    optimizer = build_optimizer(model, settings(optimizer=name))
    assert isinstance(optimizer, kind)
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.5
    assert group["weight_decay"] == 0.1
    assert [id(parameter) for parameter in group["params"]] == [id(layer.weight)]


def names_by_decay(model: Any) -> dict[float, set[str]]:
    """Trainable parameters by the weight decay that the optimizer gives them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, settings()).param_groups
    return {g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in groups}


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES | RECURRENT))
def test_decay_takes_the_parameters_that_transformers_own_trainer_takes(kind: str) -> None:
    from transformers import Trainer

    model = tiny_model(kind)
    names: Any = Trainer.get_decay_parameter_names
    theirs = set(names(None, model))
    found = names_by_decay(model)
    everything = {name for name, _ in model.named_parameters()}
    assert found[0.1] == theirs & everything
    assert found.get(0.0, set()) == everything - theirs


def test_matrices_decay_and_norms_and_biases_do_not() -> None:
    """By the number of dimensions, which knows no names."""
    for kind in ("gpt2", "llama", "qwen2", "qwen3", "gemma2", "opt", "bloom"):
        model = tiny_model(kind)
        dimensions = {name: parameter.dim() for name, parameter in model.named_parameters()}
        for decay, names in names_by_decay(model).items():
            assert {dimensions[name] > 1 for name in names} == {decay > 0}, kind


def test_every_parameter_is_optimized_once_also_a_tied_one() -> None:
    model = tiny_model("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    groups = build_optimizer(model, settings()).param_groups
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_adapter_decays_whole(kind: str) -> None:
    from dpo_bench.experiment.config import LoRA
    from dpo_bench.model.logprob_backends import FullLogitsBackend
    from dpo_bench.model.lora import with_adapter

    adapted = with_adapter(FullLogitsBackend(tiny_model(kind)), LoRA(rank=2), "tiny").model
    adapter = {name for name, _ in adapted.named_parameters() if ".lora_" in name}
    assert names_by_decay(adapted) == {0.1: adapter}


def test_one_step_without_a_gradient_shrinks_what_decays_and_nothing_else() -> None:
    model = tiny_model("gpt2")
    optimizer = build_optimizer(model, settings())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.dim() > 1 else 1.0  # 1 - rate x decay
        torch.testing.assert_close(parameter.detach(), factor * before[name])
