"""The rule of the token budget, the parts of a plan, and what is chosen where memory is short."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dpo_bench.experiment.config import LoRA, Training
from dpo_bench.model.logprob_backends import HiddenStateBackend
from dpo_bench.model.lora import with_adapter
from dpo_bench.model.pass_memory import Linear, PassMemory, skeleton_backend
from dpo_bench.training.memory import FILL, MemoryPlan, Setting, plan_memory, tokens_that_fit
from dpo_bench.training.probe import confirmed_tokens, longest_pairs, tokens_by_measure
from tests.model.test_out_of_memory import memory_for
from tests.model.test_pass_memory import PAIRS, llama

MEBI = 1 << 20
LONGEST = int(PAIRS.sizes.max())


@pytest.mark.parametrize(
    ("memory", "resident", "most", "expected"),
    [
        (1000, 200, 500, 80),  # ten bytes a token
        (1000, 200, 60, 60),  # never more than is wanted
        (1000, 200, 5, 30),  # but the longest pair, which cannot be divided
        (1000, 800, 500, 20),  # too few for the longest pair
        (1000, 1000, 500, 0),
        (1000, 2000, 500, 0),
    ],
)
def test_the_rule_of_the_budget(memory: int, resident: int, most: int, expected: int) -> None:
    passing = PassMemory(kept=Linear(0, 4), layers=Linear(0, 10), logits=Linear(0, 1))
    assert tokens_that_fit(memory, resident, passing, longest=30, most=most) == expected


def test_where_a_pass_is_not_known_the_device_decides() -> None:
    assert tokens_that_fit(1000, 200, None, longest=30, most=500) == 500
    assert tokens_that_fit(1000, 1000, None, longest=30, most=500) == 0


def gpu(memory: int, **changes: Any) -> Setting:
    setting = Setting("cuda", "bf16", memory, longest=LONGEST, rows=64, sampled=100)
    return replace(setting, **changes)


def backend(adapter: bool = False) -> Any:
    with torch.device("meta"):
        policy = skeleton_backend(llama(), "bf16")
    return with_adapter(policy, LoRA(rank=4), "x") if adapter else policy


def planned(setting: Setting, adapter: bool = False, **settings: Any) -> MemoryPlan:
    with torch.device("meta"):
        reference = None if adapter else llama()
    training = Training(steps=1, pairs_per_step=64, **settings)
    return plan_memory(backend(adapter), reference, training, PAIRS, setting)


def test_full_training_on_a_gpu_takes_18_bytes_a_weight_and_2_for_the_reference() -> None:
    plan = planned(gpu(10**12))
    count = llama().num_parameters()
    assert plan.weights == (2 + 4) * count
    assert (plan.reference, plan.gradients, plan.optimizer) == (2 * count, 4 * count, 8 * count)
    assert plan.resident == 20 * count
    assert not plan.checkpointing
    assert not plan.is_on_host
    assert plan.tokens == plan.most_tokens
    assert planned(gpu(10**12), optimizer="rmsprop").optimizer == 4 * count


def test_an_adapter_takes_its_own_and_the_base_in_bf16() -> None:
    plan = planned(gpu(10**12), adapter=True)
    adapted = sum(one.numel() for one in backend(True).model.parameters() if one.requires_grad)
    assert 0 < adapted < llama().num_parameters() / 5
    assert plan.weights == 2 * llama().num_parameters() + 6 * adapted
    assert (plan.reference, plan.gradients) == (0, 4 * adapted)


def test_on_a_cpu_everything_is_fp32_and_nothing_is_checkpointed() -> None:
    plan = planned(gpu(10**12, device="cpu", precision="fp32"))
    count = llama().num_parameters()
    assert plan.resident == (4 + 4 + 4 + 8) * count
    assert not plan.checkpointing
    assert planned(gpu(10**12, device="cpu"), checkpointing="full").checkpointing


def test_ranks_divide_what_is_stored_and_gather_a_layer_at_a_time() -> None:
    whole, quarter = planned(gpu(10**12)), planned(gpu(10**12, ranks=4))
    assert quarter.weights == pytest.approx(4 * llama().num_parameters() / 4, abs=4)  # fp32 alone
    for name in ("reference", "gradients", "optimizer"):
        assert getattr(quarter, name) == pytest.approx(getattr(whole, name) / 4, abs=4)
    assert whole.gathered == whole.whole == 0
    assert 0 < quarter.gathered < quarter.whole == 2 * llama().num_parameters()


def test_as_memory_gets_short_first_activations_go_then_the_reference() -> None:
    roomy = planned(gpu(10**12))
    assert roomy.passing is not None
    enough = min(8192, int(64 * PAIRS.sizes.mean()))
    keeping = (roomy.resident + roomy.passing.at(enough)) / FILL
    assert not planned(gpu(int(keeping * 1.02))).checkpointing
    tight = planned(gpu(int(keeping * 0.95)))
    assert tight.checkpointing
    assert not tight.is_on_host
    assert tight.tokens >= enough
    assert tight.passing is not None
    without = (tight.resident - tight.reference + tight.passing.at(enough)) / FILL
    tighter = planned(gpu(int(without * 1.02)))
    assert tighter.checkpointing
    assert tighter.is_on_host
    assert tighter.resident == tight.resident - tight.reference
    assert not planned(gpu(int(keeping * 0.95)), checkpointing="none").checkpointing


def test_what_fits_nowhere_is_said_not_to_fit() -> None:
    plan = planned(gpu(llama().num_parameters() * 18))
    assert not plan.fits
    assert plan.tokens == 0
    assert plan.total > plan.setting.usable


def test_parts_add_up_and_rows_of_sampling_fit() -> None:
    plan = planned(gpu(64 * MEBI))
    assert plan.training == plan.resident + plan.activations + plan.logits
    assert plan.passing is not None
    assert plan.activations + plan.logits == pytest.approx(plan.passing.at(plan.tokens), abs=2)
    assert plan.sampling <= plan.setting.usable
    assert 1 <= plan.rows <= 64


def policy_and_plan(memory: int) -> tuple[Any, MemoryPlan]:
    policy = HiddenStateBackend(llama(), packs=True)
    training = Training(steps=1, pairs_per_step=64)
    setting = gpu(memory, precision="fp32")
    with torch.device("meta"):
        return policy, plan_memory(policy, llama(), training, PAIRS, setting)


def test_a_probe_confirms_the_plan_and_leaves_nothing_behind() -> None:
    policy, plan = policy_and_plan(10**9)

    def meter(work: Any) -> int:
        work()
        return 1

    assert confirmed_tokens(plan, policy, PAIRS, meter) == plan.tokens
    assert all(one.grad is None for one in policy.model.parameters())


def test_a_probe_that_runs_out_of_memory_or_takes_more_lowers_the_budget() -> None:
    policy, plan = policy_and_plan(10**9)
    free = plan.setting.usable - plan.resident
    assert tokens_by_measure(plan, plan.tokens, 3000, 2 * free) == 1500
    assert tokens_by_measure(plan, plan.tokens, 3000, free) == plan.tokens
    assert tokens_by_measure(replace(plan, passing=None), 9, 1000, free // 4) == 4000

    def meter(work: Any) -> int:
        work()
        return 1

    with memory_for(policy.model, 1000) as failed:
        found = confirmed_tokens(plan, policy, PAIRS, meter)
    assert failed
    assert LONGEST <= found <= 2000
    assert policy.most_tokens == found


def test_the_longest_pairs_are_probed() -> None:
    first = longest_pairs(PAIRS, LONGEST)
    assert PAIRS.sizes[first].tolist() == [LONGEST]
    assert longest_pairs(PAIRS, 1) == first
    assert len(longest_pairs(PAIRS, 10**6)) == len(PAIRS)
