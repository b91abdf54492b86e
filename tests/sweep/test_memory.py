"""The plan that a dry run prints, and what is refused before anything is trained."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.experiment import Experiment
from dpo_bench.model.activation_checkpointing import decoder_layers
from dpo_bench.sweep import context as context_module
from dpo_bench.sweep.inputs import prepare_inputs
from dpo_bench.sweep.memory import GIB, describe_plan, memory_plan, on_gpu_of, require_fitting
from dpo_bench.sweep.preview import print_plan
from dpo_bench.sweep.sources import find_sources
from dpo_bench.training.probe import confirmed_tokens
from tests.sweep.small_context import small_context


def experiment(model: Path, pairs: Path, **training: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "plan",
            "policy": str(model),
            "preferences": str(pairs),
            "training": {"steps": 2, "pairs_per_step": 16, "learning_rate": 1e-3, **training},
            "evaluation": {"prompts": 3, "max_new_tokens": 4},
            "losses": [{"name": "dpo", "beta": 0.1}],
        }
    )


def shown(asked: Experiment, **options: Any) -> str:
    screen = io.StringIO()
    print_plan(asked, 1, Console(file=screen, width=200), "quiet", **options)
    return screen.getvalue()


def test_a_dry_run_shows_what_takes_how_much(llama_folder: Path, pairs_file: Path) -> None:
    text = shown(experiment(llama_folder, pairs_file))
    for part in ("weights", "reference", "gradients", "optimizer", "activations", "logits"):
        assert f"{part} 0." in text or f"{part} " in text
    assert "keys and values take" in text
    assert "(this machine)" in text


def test_a_gpu_that_is_not_here_is_planned_for(llama_folder: Path, pairs_file: Path) -> None:
    asked = experiment(llama_folder, pairs_file, device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(EnvironmentProblem, match="torch finds no GPU"):
            shown(asked)
    text = shown(asked, gpu_memory=24)
    assert "of 24.0 GiB (the GPU)" in text
    assert "cuda/bf16" in text


def plan_on(asked: Experiment, memory: int) -> Any:
    sources = on_gpu_of(find_sources(asked), "auto")
    return memory_plan(asked, sources, prepare_inputs(asked, sources), memory)


def test_what_cannot_fit_is_refused_with_what_would(llama_folder: Path, pairs_file: Path) -> None:
    asked = experiment(llama_folder, pairs_file)
    roomy = plan_on(asked, 80 * GIB)
    require_fitting(roomy, asked.training)
    tight = plan_on(asked, 1 << 18)
    with pytest.raises(EnvironmentProblem, match=r"LoRA .*gpus_per_trial") as raised:
        require_fitting(tight, asked.training)
    assert raised.value.exit_code == 3


def test_an_adapter_holds_one_model_and_is_not_advised_again(
    llama_folder: Path, pairs_file: Path
) -> None:
    asked = experiment(llama_folder, pairs_file, lora={"rank": 2})
    plan = plan_on(asked, 80 * GIB)
    assert plan.reference == 0
    with pytest.raises(EnvironmentProblem) as raised:
        require_fitting(plan_on(asked, 1 << 15), asked.training)
    assert "LoRA" not in str(raised.value)


def test_ranks_share_the_memory_of_a_machine_and_divide_the_weights(
    llama_folder: Path, pairs_file: Path
) -> None:
    one, two = (experiment(llama_folder, pairs_file, gpus_per_trial=count) for count in (1, 2))
    plans = []
    for asked in (one, two):
        sources = find_sources(asked)
        plans.append(memory_plan(asked, sources, prepare_inputs(asked, sources)))
    assert plans[1].setting.memory == plans[0].setting.memory // 2
    assert plans[1].weights == plans[0].weights // 2
    assert any("on each of 2 devices" in line for line in describe_plan(plans[1]))


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_worker_checkpoints_the_policys_layers_when_asked(
    llama_folder: Path, pairs_file: Path, lora: dict[str, Any] | None
) -> None:
    for wanted in ("none", "auto", "full"):
        training = {"checkpointing": wanted, "steps": 1, "lora": lora}
        found = small_context(llama_folder, pairs_file, steps=1, evaluation={}, training=training)
        wrapped = ["forward" in vars(one) for one in decoder_layers(found.policy.model)]
        assert wrapped == [wanted == "full"] * 2
        assert not any("forward" in vars(one) for one in decoder_layers(found.reference.model))


def test_a_worker_on_a_gpu_follows_its_plan(
    llama_folder: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is a GPU's, everything else happens on a CPU."""

    def planned(*arguments: Any) -> Any:
        plan = memory_plan(*arguments)
        return replace(plan, checkpointing=True, is_on_host=True, most_tokens=700)

    def measured(work: Any) -> int:
        work()
        return 1

    monkeypatch.setattr(
        context_module.WorkerContext,
        "_plan",
        lambda self: planned(self.experiment, self.sources, self.inputs),
    )
    monkeypatch.setattr(
        context_module,
        "confirmed_tokens",
        lambda plan, policy, pairs: confirmed_tokens(plan, policy, pairs, measured),
    )
    context = small_context(llama_folder, pairs_file, steps=1, evaluation={})
    assert context.policy.tokens_per_pass() == context.reference.tokens_per_pass() == 700
    context.reset_policy(0)
    assert context.reference.host is not None
    assert context.policy.host is None
    before = context.evaluator.evaluate(context.policy).metrics["kl"].value
    assert before == pytest.approx(0, abs=1e-9)
