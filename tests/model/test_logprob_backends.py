"""The path is chosen by what a model does, not by what it is called."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.logprob_backends import (
    FullLogitsBackend,
    HiddenStateBackend,
    LogprobBackend,
    OwnHeadBackend,
    attention_mask,
)
from dpo_bench.model.logprobs import choose_backend, token_logps
from tests.model.architectures import (
    ARCHITECTURES,
    COMMON,
    OWN_HEAD,
    PADDED_ONLY,
    naive_logps,
    random_batch,
    rounding,
    tiny_model,
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_quick_path_is_taken_exactly_where_it_is_right(architecture: str) -> None:
    backend = choose_backend(tiny_model(architecture, torch.float32))

    assert backend.kind == ("own-head" if architecture in OWN_HEAD else "hidden")
    assert backend.packs == (architecture not in PADDED_ONLY)
    assert backend.name == backend.kind + "/packed" * backend.packs


@pytest.mark.parametrize("architecture", ["gemma2", "cohere", "granite"])
def test_a_head_that_caps_or_scales_does_so_at_the_response_positions(architecture: str) -> None:
    """In logits as large as a trained model's, where a soft-cap acts."""
    model, batch = tiny_model(architecture), random_batch()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(100)
    backend = choose_backend(model)

    assert isinstance(backend, OwnHeadBackend)
    found, expected = token_logps(backend, batch), naive_logps(model, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding(architecture, 1e-10))
    assert "forward" not in vars(model.base_model)


def test_a_soft_cap_is_found_though_the_logits_are_small() -> None:
    model = tiny_model("gemma2", torch.float32, initializer_range=1e-4)
    with torch.no_grad():
        logits = model(input_ids=torch.arange(10)[None]).logits
    assert logits.abs().max() < 0.01, "far from the cap at 30"

    assert isinstance(choose_backend(model), OwnHeadBackend)


def test_the_slow_path_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dpo_bench"):
        choose_backend(bigram())
        choose_backend(tiny_model("cohere", torch.float32))

    assert [message.split()[0] for message in caplog.messages] == ["Bigram"]


def test_choosing_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    model = tiny_model("llama", torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()

    choose_backend(model)

    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.get_output_embeddings()._forward_pre_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_looks_ahead_is_refused() -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = BertConfig(**COMMON, **sizes, num_attention_heads=2, initializer_range=0.3)
    model: Any = BertLMHeadModel(config)
    model.eval()

    with pytest.raises(EnvironmentProblem, match="BertLMHeadModel is no causal language model"):
        choose_backend(model)


class Leaky(LlamaForCausalLM):
    """Without a mask, padding anywhere in the batch disturbs every row."""

    heeds_mask = True

    def forward(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
        output = super().forward(input_ids, attention_mask=attention_mask, **options)
        if attention_mask is None or not self.heeds_mask:
            padding = (input_ids[:, -1] == 0).any() & (len(input_ids) > 1)
            output.logits = output.logits + padding * torch.arange(output.logits.shape[-1]) / 50
        return output


class Bigram(LlamaForCausalLM):
    """Adds to its logits what the last token alone says."""

    def forward(self, input_ids: Any, **options: Any) -> Any:
        output = super().forward(input_ids, **options)
        output.logits = output.logits + self.model.embed_tokens(input_ids).sum(-1, keepdim=True) * (
            torch.arange(output.logits.shape[-1]) / 50
        )
        return output


def bigram(dtype: torch.dtype = torch.float32) -> Any:
    plain = tiny_model("llama", dtype)
    model: Any = Bigram(plain.config)
    model.to(dtype).load_state_dict(plain.state_dict())
    return model.eval()


def test_logits_of_more_than_hidden_states_are_taken_whole() -> None:
    model, batch = bigram(torch.float64), random_batch()

    backend = choose_backend(model)

    assert isinstance(backend, FullLogitsBackend)
    torch.testing.assert_close(token_logps(backend, batch), naive_logps(model, batch))


class Narrowed(LlamaForCausalLM):
    """Divides its hidden states before the output embedding, as MiniCPM does."""

    def forward(self, input_ids: Any, **options: Any) -> Any:
        hidden = self.model(input_ids, **options).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(hidden / 4))


def test_a_change_before_the_head_is_kept() -> None:
    plain, batch = tiny_model("llama"), random_batch()
    model: Any = Narrowed(plain.config).double()
    model.load_state_dict(plain.state_dict())

    backend = choose_backend(model.eval())

    assert isinstance(backend, OwnHeadBackend)
    torch.testing.assert_close(token_logps(backend, batch), naive_logps(model, batch))


def leaky(heeds_mask: bool) -> Any:
    plain = tiny_model("llama", torch.float32)
    model: Any = Leaky(plain.config)
    model.load_state_dict(plain.state_dict())
    model.heeds_mask = heeds_mask
    return model.eval()


def test_padding_that_leaks_is_masked() -> None:
    model, batch = leaky(heeds_mask=True), random_batch()

    backend = choose_backend(model)

    assert backend.name.endswith("/masked")
    found, expected = token_logps(backend, batch), naive_logps(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_padding_that_leaks_in_spite_of_the_mask_is_refused() -> None:
    with pytest.raises(EnvironmentProblem, match="Leaky gives a text other log-probs"):
        choose_backend(leaky(heeds_mask=False))


@pytest.mark.parametrize("kind", [HiddenStateBackend, FullLogitsBackend])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_a_masked_path_has_the_same_values(kind: type[LogprobBackend], architecture: str) -> None:
    model, batch = tiny_model(architecture), random_batch()

    masked = token_logps(kind(model, masks_padding=True), batch)

    torch.testing.assert_close(masked, token_logps(kind(model), batch), rtol=0, atol=1e-12)


def test_the_mask_ends_where_the_last_token_is_predicted() -> None:
    batch = random_batch()

    mask = attention_mask(batch)

    for row in range(len(batch.lengths)):
        last = int(batch.position[batch.row == row].max())
        assert mask[row].tolist() == [1] * (last + 1) + [0] * (mask.shape[1] - last - 1)


@pytest.mark.parametrize("kind", [HiddenStateBackend, FullLogitsBackend])
def test_bf16_keeps_logits_and_weights_in_fp32(kind: type[LogprobBackend]) -> None:
    model, batch = tiny_model("llama", torch.float32), random_batch()
    path = kind(model, "bf16")

    states = path.states(batch)
    logits = path.logits(states)
    values = token_logps(path, batch)
    torch.autograd.backward(values.sum())

    # Logits that were rounded to bf16 on the way would not change when rounded again.
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    assert "forward" not in vars(model.get_output_embeddings())
    exact = token_logps(kind(model), batch)
    assert not torch.equal(values, exact)
    torch.testing.assert_close(values, exact, rtol=0.1, atol=0.5)


def test_both_paths_agree_in_bf16() -> None:
    model, batch = tiny_model("llama", torch.float32), random_batch()

    hidden = token_logps(HiddenStateBackend(model, "bf16"), batch)

    full = token_logps(FullLogitsBackend(model, "bf16"), batch)
    torch.testing.assert_close(hidden, full, rtol=0, atol=1e-5)
