"""Weights that are rounded to bf16 once, for sampling."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dpo_bench.experiment.config import LoRA
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.lora import with_adapter
from dpo_bench.model.rounded_copy import rounded
from dpo_bench.model.sampling import SamplingPlan, sample_responses
from tests.model.architectures import tiny_model

PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16], [8, 8]]
PLAN = SamplingPlan(
    samples=3,
    max_new_tokens=10,
    temperature=1.0,
    end_tokens=frozenset({2}),
    seed=0,
    stream="policy",
    rows_per_batch=512,
)


def in_bf16(architecture: str) -> LogprobBackend:
    backend = choose_backend(tiny_model(architecture, torch.float32), "bf16")
    backend.sampler = "continuous"
    return backend


def adapted(base: LogprobBackend) -> LogprobBackend:
    policy = with_adapter(base, LoRA(rank=3, alpha=5.0), "the base")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    return policy


class Casts(TorchDispatchMode):
    """Counts conversions by shape."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, function, types, args=(), kwargs=None
    ):
        found = function(*args, **(kwargs or {}))
        # Within torch.inference_mode it is `to` that arrives here.
        casts = function.overloadpacket in {torch.ops.aten._to_copy, torch.ops.aten.to}
        if casts and args[0].dtype == torch.float32 and found.dtype == torch.bfloat16:
            self.shapes[tuple(args[0].shape)] += 1
        return found


def casts_of_matrices(backend: LogprobBackend) -> int:
    """Conversions of what has the shape of a weight, while responses are sampled."""
    ends = {id(backend.model.get_output_embeddings().weight)}
    shapes = {
        tuple(one.shape)
        for one in backend.model.parameters()
        if one.dim() == 2 and id(one) not in ends
    }
    with Casts() as casts:
        sample_responses(backend, PROMPTS, PLAN)
    # Of states there are as many as prompts or responses in a pass, which no weight here is high.
    return sum(count for shape, count in casts.shapes.items() if shape in shapes)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_no_token_rounds_a_weight(architecture: str, *, lora: bool) -> None:
    backend = in_bf16(architecture)
    backend = adapted(backend) if lora else backend
    assert casts_of_matrices(backend) >= 8 * PLAN.max_new_tokens
    with rounded(backend) as sampling:
        assert casts_of_matrices(sampling) == 0


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "opt", "granite"])
def test_the_same_tokens_are_sampled(architecture: str) -> None:
    backend = in_bf16(architecture)
    before = copy.deepcopy(backend.model.state_dict())
    with rounded(backend) as sampling:
        assert sample_responses(sampling, PROMPTS, PLAN) == sample_responses(backend, PROMPTS, PLAN)
    assert all(torch.equal(value, before[name]) for name, value in backend.model.named_parameters())


def logits_of(backend: LogprobBackend) -> Tensor:
    with torch.inference_mode():
        batch = backend.response_batch(PROMPTS, [[3, 4, 5]] * len(PROMPTS))
        return backend.logits(backend.states(batch))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_an_adapter_is_added_before_weights_are_rounded(architecture: str) -> None:
    policy = adapted(in_bf16(architecture))
    exact = copy.copy(policy)
    exact.precision = "fp32"
    with rounded(policy) as sampling:
        assert not [name for name, _ in sampling.model.named_parameters() if "lora" in name]
        error = (logits_of(sampling) - logits_of(exact)).abs().max()
        size = logits_of(exact).abs().max()
        unmerged = (logits_of(policy) - logits_of(exact)).abs().max()
    assert [name for name, _ in policy.model.named_parameters() if "lora" in name]
    assert error < 0.05 * size
    assert error < 3 * unmerged


def test_over_weights_in_bf16_an_adapter_stays_by_itself() -> None:
    policy = adapted(in_bf16("llama"))
    for name, parameter in policy.model.named_parameters():
        if "base_layer" in name:
            parameter.data = parameter.data.bfloat16()
    with rounded(policy) as sampling:
        names = dict(sampling.model.named_parameters())
        assert any("lora" in name for name in names)
        assert {one.dtype for name, one in names.items() if "lora" in name} == {torch.bfloat16}
        torch.testing.assert_close(logits_of(sampling), logits_of(policy), rtol=0, atol=1e-6)


def test_in_fp32_nothing_is_copied() -> None:
    backend = choose_backend(tiny_model("llama", torch.float32))
    with rounded(backend) as sampling:
        assert sampling is backend


def test_tensors_that_are_no_matrices_are_the_models_own() -> None:
    backend = in_bf16("llama")
    with rounded(backend) as sampling:
        for name, one in sampling.model.named_parameters():
            same = one is backend.model.get_parameter(name)
            assert same == ("norm" in name or "embed" in name or "lm_head" in name), name
