"""Vocabularies that are shared or not, and texts that outrun a model's positions."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from dpo_bench.errors import ConfigurationError, DataError
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.compatibility import (
    position_table,
    require_ids,
    require_positions,
    require_same_tokens,
    share_vocabulary,
)
from dpo_bench.model.logprobs import score, token_logps
from tests.data.build import plain

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def llama(**options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**SIZES, **options})).eval()


def with_positions(kind: str) -> Any:
    import transformers

    configs: dict[str, Any] = {
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=50, n_positions=64, n_embd=32, n_layer=1, n_head=2
        ),
        "opt": lambda: transformers.OPTConfig(
            vocab_size=50,
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
        ),
        "gptj": lambda: transformers.GPTJConfig(
            vocab_size=50, n_positions=64, n_embd=32, n_layer=1, n_head=2, rotary_dim=8
        ),
        "gpt_neo": lambda: transformers.GPTNeoConfig(
            vocab_size=50,
            max_position_embeddings=64,
            hidden_size=32,
            num_layers=1,
            num_heads=2,
            attention_types=[[["global"], 1]],
        ),
        "biogpt": lambda: transformers.BioGptConfig(**{**SIZES, "num_hidden_layers": 1}),
        "llama": lambda: transformers.LlamaConfig(**SIZES),
        "bloom": lambda: transformers.BloomConfig(
            vocab_size=50, hidden_size=32, n_layer=1, n_head=2
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES),
        "falcon": lambda: transformers.FalconConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
        ),
    }
    build: Any = transformers.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build.from_config(configs[kind]()).eval()


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gptj", "gpt_neo", "biogpt"])
def test_a_table_of_positions_is_found_where_the_model_breaks_behind_it(kind: str) -> None:
    model = with_positions(kind)
    assert position_table(model) == 64
    with torch.no_grad():
        model(input_ids=torch.ones(1, 64, dtype=torch.long))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.ones(1, 65, dtype=torch.long))


@pytest.mark.parametrize("kind", ["llama", "bloom", "gpt_neox", "falcon"])
def test_positions_that_are_worked_out_have_no_table(kind: str) -> None:
    model = with_positions(kind)
    assert position_table(model) is None
    with torch.no_grad():
        model(input_ids=torch.ones(1, 80, dtype=torch.long))


def test_too_long_texts_are_named_with_the_numbers_and_the_remedy() -> None:
    model = with_positions("gpt2")
    require_positions(model, pair=64, prompt=40, new_tokens=24)
    with pytest.raises(DataError, match=r"positions for 64 tokens.* pair has 65: .*over_limit"):
        require_positions(model, pair=65, prompt=10, new_tokens=10)
    with pytest.raises(ConfigurationError, match=r"max_new_tokens = 25 needs 65: .*at most 24"):
        require_positions(model, pair=64, prompt=40, new_tokens=25)


def test_extrapolation_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dpo_bench"):
        require_positions(llama(), pair=64, prompt=10, new_tokens=54)
        assert not caplog.messages
        require_positions(llama(), pair=100, prompt=10, new_tokens=54)
    assert "up to 64 tokens" in caplog.text
    assert "may have 100" in caplog.text


def test_every_used_id_needs_an_embedding() -> None:
    tokenizer = plain(eos_token="</s>")
    model = llama(vocab_size=len(tokenizer) - 1)
    require_ids(model, len(tokenizer) - 1, tokenizer, [0, 1])
    last = len(tokenizer) - 1
    with pytest.raises(ConfigurationError, match=rf"id {last}\): resize the model's embeddings"):
        require_ids(model, last, tokenizer, [0, last])


def test_ids_must_mean_the_same_tokens() -> None:
    ours, other = plain(eos_token="</s>"), plain(eos_token="<end>", pad_token="</s>")
    require_same_tokens(ours, plain(eos_token="</s>"), range(len(ours)))
    with pytest.raises(ConfigurationError, match="different vocabularies: id 0 is '</s>'"):
        require_same_tokens(ours, other, [5])


def test_a_token_that_only_the_policy_knows_matters_where_it_is_used() -> None:
    more = plain(eos_token="</s>")
    more.add_tokens(["<new>"])
    base, new = plain(eos_token="</s>"), more.convert_tokens_to_ids("<new>")
    require_same_tokens(more, base, [1, 2])
    with pytest.raises(ConfigurationError, match="'<new>' to the policy and unknown"):
        require_same_tokens(more, base, [1, new])


def test_a_family_padded_further_is_compared_over_the_shared_ids() -> None:
    """As Qwen2.5's 0.5B and 7B: the larger embedding has ids that are no tokens."""
    small, large = llama(vocab_size=48), llama(vocab_size=64)
    policy, reference = choose_backend(small), choose_backend(large)
    share_vocabulary(policy, reference)
    assert (policy.vocabulary, reference.vocabulary) == (48, 48)
    assert policy.name != reference.name
    prompts, responses = [[3, 4, 5], [6]], [[7, 8], [9, 10, 2]]
    batch = policy.response_batch(prompts, responses)
    scores = score(policy, reference, batch)
    expected, kl = [], []
    for prompt, response in zip(prompts, responses, strict=True):
        ids, start = torch.tensor([prompt + response]), len(prompt) - 1
        with torch.no_grad():
            ours = small(ids).logits[0, start:-1].double().log_softmax(-1)
            theirs = large(ids).logits[0, start:-1, :48].double().log_softmax(-1)
        expected += theirs.gather(-1, torch.tensor(response)[:, None]).squeeze(-1).tolist()
        kl += (ours.exp() * (ours - theirs)).sum(-1).tolist()
    torch.testing.assert_close(scores.reference_logp.double(), torch.tensor(expected).double())
    torch.testing.assert_close(scores.kl.double(), torch.tensor(kl).double(), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(token_logps(reference, batch), scores.reference_logp)


def test_models_of_one_size_share_all() -> None:
    first, second = choose_backend(llama()), choose_backend(llama())
    share_vocabulary(first, second)
    assert first.name == second.name == "hidden/packed"
