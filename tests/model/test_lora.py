"""An adapter over a frozen model: right values and gradients, nothing copied, nothing left over."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import LoRA
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.files import ADAPTER_WEIGHTS
from dpo_bench.model.logprobs import LogprobBackend, sum_by_row, token_logps
from dpo_bench.model.lora import frozen_below, reset_adapter, save_adapter, with_adapter
from dpo_bench.training.weights import trained_weights
from tests.model.architectures import tiny_model, with_exact_norms
from tests.model.test_packed import PAIRS, naive_sums

LORA = LoRA(rank=3, alpha=5.0)


def paths(architecture: str = "llama", lora: LoRA = LORA) -> tuple[LogprobBackend, LogprobBackend]:
    """A frozen model and the policy over it, at its start with seed 0."""
    base = choose_backend(with_exact_norms(tiny_model(architecture)), longest=24)
    policy = with_adapter(base, lora, "the base")
    reset_adapter(policy.model, seed=0)
    return base, policy


def adapter_of(policy: LogprobBackend) -> dict[str, Tensor]:
    return {name: p for name, p in policy.model.named_parameters() if p.requires_grad}


def disturb(policy: LogprobBackend) -> None:
    """Stand in for training: an adapter that is not zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in adapter_of(policy).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).double() / 4)


def sums_of(backend: LogprobBackend) -> Tensor:
    batch = backend.batch(PAIRS, range(len(PAIRS)))
    return sum_by_row(token_logps(backend, batch), batch.lengths)


def written_out(base: Any, adapter: dict[str, Tensor], scale: float) -> Any:
    """The same policy by the paper's formula: a plain model with the weights W + scale B A."""
    weights = dict(base.named_parameters())
    for name, down in adapter.items():
        if ".lora_A." in name:
            update = scale * adapter[name.replace("lora_A", "lora_B")] @ down
            layer = name.partition(".lora_A")[0] + ".weight"
            transposed = weights[layer].shape != update.shape or "attn.c_proj" in layer
            weights[layer] = weights[layer] + (update.T if transposed else update)
    return lambda **inputs: functional_call(base, weights, kwargs=inputs)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2", "opt"])
def test_a_pack_equals_the_naive_double_forward(architecture: str) -> None:
    base, policy = paths(architecture)
    assert policy.packs
    disturb(policy)
    adapter = adapter_of(policy)
    weighted = torch.linspace(-1, 1, 2 * len(PAIRS)).double()

    found = sums_of(policy)

    naive = written_out(base.model, adapter, scale=5 / 3)
    expected = naive_sums(naive, PAIRS, range(len(PAIRS)))
    assert (expected - sums_of(base)).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad((sums * weighted).sum(), list(adapter.values()))
        for sums in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_rank_stabilised_scaling_divides_by_the_root() -> None:
    base, policy = paths(lora=LoRA(rank=4, alpha=6.0, rslora=True))
    disturb(policy)
    naive = written_out(base.model, adapter_of(policy), scale=3.0)
    expected = naive_sums(naive, PAIRS, range(len(PAIRS)))
    torch.testing.assert_close(sums_of(policy), expected, rtol=1e-12, atol=1e-12)


def test_the_start_is_the_base_to_the_last_bit() -> None:
    base, policy = paths()
    assert torch.equal(sums_of(policy), sums_of(base))


def test_all_but_the_adapter_is_the_base_s_own_memory() -> None:
    base, policy = paths()
    own = {parameter.data_ptr() for parameter in base.model.parameters()}
    adapter = adapter_of(policy)
    for name, tensor in policy.model.state_dict().items():
        assert (tensor.data_ptr() in own) == (name not in adapter), name
    assert set(adapter) == {name for name in policy.model.state_dict() if ".lora_" in name}
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_the_base_does_not_notice_a_trained_adapter() -> None:
    base, policy = paths()
    before = sums_of(base)
    disturb(policy)
    assert not torch.equal(sums_of(policy), before)
    assert torch.equal(sums_of(base), before)


def test_a_reset_depends_on_the_seed_alone() -> None:
    _, policy = paths()
    fresh = {name: value.clone() for name, value in adapter_of(policy).items()}
    disturb(policy)
    torch.manual_seed(123)
    reset_adapter(policy.model, seed=0)
    assert all(torch.equal(value, fresh[name]) for name, value in adapter_of(policy).items())
    reset_adapter(policy.model, seed=1)
    for name, value in adapter_of(policy).items():
        assert torch.equal(value, fresh[name]) == (".lora_B." in name), name


def test_a_start_is_uniform_within_one_over_the_root_of_the_inputs() -> None:
    _, policy = paths(lora=LoRA(rank=400))
    for name, value in adapter_of(policy).items():
        if ".lora_B." in name:
            assert not value.any()
            continue
        bound = value.shape[1] ** -0.5
        assert value.abs().max() <= bound
        assert value.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_all_linear_spares_the_embeddings_and_names_choose() -> None:
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    for wanted, expected in (
        ("all-linear", layers),
        (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
        (r".*\.1\.mlp\.(up|down)_proj", {"up_proj", "down_proj"}),
    ):
        _, policy = paths(lora=LoRA(target_modules=wanted))
        assert {name.split(".")[-4] for name in adapter_of(policy)} == expected


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (("q_prj",), "q_prj"),
        (("q_proj", "k_prj"), "no linear layer called k_prj"),
        (("lm_head",), "embeddings are not adapted"),
        (("q_proj", "embed_tokens"), "embeddings are not adapted"),
        (".*nowhere", "nowhere"),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused(modules: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"LlamaForCausalLM.*{message}.*down_proj, gate"):
        paths(lora=LoRA(target_modules=modules))


SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def deep(**lora: Any) -> tuple[LogprobBackend, LogprobBackend]:
    """A frozen model of four layers and the policy over it."""
    base = choose_backend(tiny_model("llama", num_hidden_layers=4), longest=24)
    policy = with_adapter(base, LoRA(rank=3, alpha=5.0, **lora), "the base")
    reset_adapter(policy.model, seed=0)
    return base, policy


@pytest.mark.parametrize(
    ("layers", "modules", "expected"),
    [
        ("top:1", "all-linear", {(3, name) for name in SEVEN}),
        ("top:0.5", ("q_proj", "v_proj"), {(at, f"{x}_proj") for at in (2, 3) for x in "qv"}),
        ("top:3", r".*\.mlp\.up_proj", {(at, "up_proj") for at in (1, 2, 3)}),
        ("top:4", ("o_proj",), {(at, "o_proj") for at in range(4)}),
    ],
)
def test_the_uppermost_layers_are_adapted(layers: str, modules: Any, expected: Any) -> None:
    _, policy = deep(layers=layers, target_modules=modules)
    parts = [name.split(".") for name in adapter_of(policy)]
    assert {(int(part[2]), part[4]) for part in parts} == expected


@pytest.mark.parametrize(
    ("wanted", "below"),
    [("all", 0), ("top:1", 29), ("top:30", 0), ("top:0.25", 22), ("top:0.1", 27), ("top:.001", 29)],
)
def test_a_share_of_layers_is_rounded_up(wanted: str, below: int) -> None:
    model = tiny_model("llama", num_hidden_layers=30)
    assert frozen_below(model, wanted) == below


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"top:5: LlamaForCausalLM has 4 decoder layers"):
        deep(layers="top:5")
    with pytest.raises(ConfigurationError, match=r"layers = top:1: .* of Linear cannot be found"):
        frozen_below(torch.nn.Linear(2, 2), "top:1")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (("q_proj", "embed_tokens"), "model.embed_tokens lie outside"),
        (("lm_head",), "lm_head lie outside"),
        (r".*\.0\.mlp\.up_proj", "nothing of that lies in layers = top:1"),
        (("q_proj", "k_prj"), "no linear layer called k_prj"),
    ],
)
def test_modules_that_are_in_no_upper_layer_are_refused(modules: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        deep(layers="top:1", target_modules=modules)


def test_the_upper_layers_are_those_of_peft(tmp_path: Path) -> None:
    """`layers_to_transform` names the same modules, and peft reads what is saved here."""
    from peft import LoraConfig, PeftModel, get_peft_model

    base, policy = deep(layers="top:2")
    disturb(policy)
    ids = torch.tensor([[3, 5, 7, 11, 13]])
    expected = policy.model(input_ids=ids).logits
    options: Any = {"r": 3, "lora_alpha": 5, "target_modules": list(SEVEN)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs: Any = get_peft_model(
            copy.deepcopy(base.model), LoraConfig(layers_to_transform=[2, 3], **options)
        )
    own = {f"base_model.model.{name}": value for name, value in adapter_of(policy).items()}
    found = {name: one for name, one in theirs.named_parameters() if one.requires_grad}
    assert set(own) == set(found)
    with torch.no_grad():
        for name, one in found.items():
            one.copy_(own[name])
    assert torch.equal(theirs(input_ids=ids).logits, expected)

    save_adapter(policy.model, tmp_path, trained_weights(policy.model))
    assert (tmp_path / ADAPTER_WEIGHTS).is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what peft asks a model is deprecated
        loaded: Any = PeftModel.from_pretrained(
            copy.deepcopy(base.model), tmp_path, autocast_adapter_dtype=False
        )
    assert torch.equal(loaded(input_ids=ids).logits, expected)
    assert not torch.equal(base.model(input_ids=ids).logits, expected)
