"""Kept hidden states of frozen lower layers: the same bits, computed once, within their memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.experiment.config import LoRA
from dpo_bench.model.activation_checkpointing import checkpoint_layers, decoder_layers
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.choose_lower_layers import share_lower_layers
from dpo_bench.model.compile_layers import compile_alike
from dpo_bench.model.logprobs import LogprobBackend, score, sum_by_row, token_logps
from dpo_bench.model.lora import reset_adapter, with_adapter
from dpo_bench.model.lower_layers import LowerLayers
from dpo_bench.model.narrow_weights import narrow_weights
from tests.model.architectures import SIZES, VOCABULARY, tiny_model

ROOM = 1 << 24
WIDE = SIZES | {"hidden_size": 192, "intermediate_size": 512, "head_dim": 48}


def some_pairs(count: int, longest: int = 40, seed: int = 3) -> TokenizedPairs:
    generator = np.random.default_rng(seed)
    prompt, chosen, rejected = (
        Ragged.of(
            [
                generator.integers(0, VOCABULARY, length).astype(np.int32)
                for length in generator.integers(2, longest, count)
            ]
        )
        for _ in range(3)
    )
    return TokenizedPairs(prompt, chosen, rejected)


PAIRS = some_pairs(17)
PROBED = some_pairs(9, seed=8)


def upper_adapter(
    kind: str = "llama", precision: str = "fp32", **changes: Any
) -> tuple[LogprobBackend, LogprobBackend]:
    """A frozen model, and over it a policy whose adapter has the uppermost of four layers."""
    sizes = {"n_layer": 4} if kind == "gpt2" else SIZES
    model = tiny_model(kind, torch.float32, **(sizes | changes))
    base = choose_backend(model.requires_grad_(requires_grad=False), precision, PAIRS.longest)
    narrow_weights(base)
    policy = with_adapter(base, LoRA(rank=3, alpha=5.0, layers="top:1"), "the base")
    narrow_weights(policy)
    reset_adapter(policy.model, seed=0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():  # stand in for training
        for one in policy.optimized().values():
            if one.requires_grad:
                one.copy_(torch.randn(one.shape, generator=generator) / 8)
    if policy.masters is not None:
        policy.masters.copy_back()
    return base, policy


def found(backend: LogprobBackend, pairs: TokenizedPairs, numbers: Sequence[int]) -> list[Tensor]:
    """Log-probs of some pairs' tokens, and the gradient of a mixture of their sums."""
    batch = backend.batch(pairs, numbers)
    logps = token_logps(backend, batch)
    trained = [one for one in backend.model.parameters() if one.requires_grad]
    if not trained:
        return [logps]
    slopes = torch.linspace(-1, 2, 2 * len(numbers))
    mixed = (sum_by_row(logps, batch.lengths) * slopes).sum()
    return [logps.detach(), *torch.autograd.grad(mixed, trained)]


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


STEPS = ([0, 1, 2], [3, 4, 5, 6, 7], [2, 8, 3], list(range(17)), [16, 0, 9, 9, 11])
"""Pairs of some passes: new ones, known ones in other company, both, one twice."""


@pytest.mark.parametrize(
    ("kind", "precision", "changes"),
    [
        ("llama", "fp32", {"tie_word_embeddings": True}),
        ("llama", "fp32", WIDE | {"tie_word_embeddings": False}),
        ("qwen2", "fp32", {}),
        ("gpt2", "fp32", {}),
        ("cohere", "fp32", {}),
        ("opt", "fp32", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
        ("llama", "bf16", {}),
        ("qwen3", "bf16", {}),
    ],
)
def test_log_probs_and_gradients_have_the_same_bits_kept_or_computed(
    kind: str, precision: str, changes: dict[str, Any]
) -> None:
    """And, but for rounding, those of passes of all layers; in bf16 also these bits."""
    backends = upper_adapter(kind, precision, **changes)[::-1]
    plain = [[found(one, PAIRS, numbers) for one in backends] for numbers in STEPS]
    assert share_lower_layers(backends, 3, 0, PROBED) is not None
    anew = [[found(one, PAIRS, numbers) for one in backends] for numbers in STEPS]
    lower = share_lower_layers(backends, 3, ROOM, PROBED)
    assert lower is not None
    kept = [[found(one, PAIRS, numbers) for one in backends] for numbers in STEPS]
    assert lower.hits > lower.asked / 2
    for numbers, one, two, three in zip(STEPS, plain, anew, kept, strict=True):
        for at in range(2):
            assert_same(three[at], two[at])
            for ours, theirs in zip(two[at], one[at], strict=True):
                rounding = 0 if precision == "bf16" else 1e-4 * float(theirs.abs().max())
                assert (ours - theirs).abs().max() <= rounding, numbers


def count_passes(backend: LogprobBackend) -> Callable[[], int]:
    """How many passes the lowest layer of a model has seen since this was called."""
    calls: list[None] = []
    decoder_layers(backend.model)[0].register_forward_hook(lambda *_: calls.append(None))
    return lambda: len(calls)


def test_a_pair_is_computed_once_for_policy_and_reference_and_known_by_its_content() -> None:
    base, policy = upper_adapter()
    share_lower_layers([policy, base], 3, ROOM, PAIRS)
    with torch.no_grad():
        token_logps(base, base.batch(PAIRS, range(17)))
        passes = [count_passes(base), count_passes(policy)]
        token_logps(policy, policy.batch(PAIRS, [5, 2, 11]))
        again = PAIRS.take([4, 4, 16, 0])  # as pairs are drawn anew for another seed
        token_logps(policy, policy.batch(again, range(4)))
        assert [count() for count in passes] == [0, 0]
        token_logps(policy, policy.batch(some_pairs(3, seed=5), range(3)))
        assert [count() for count in passes] == [0, 1]


def test_texts_that_are_no_pairs_are_computed_once_for_both_and_not_kept() -> None:
    """Sampled responses: no other policy has them."""
    base, policy = upper_adapter()
    texts = ([[3, 4, 5], [6, 7]], [[8, 9], [10, 11, 12]])
    share_lower_layers([policy, base], 3, 0, PROBED)
    expected = score(policy, base, base.response_batch(*texts))
    lower = share_lower_layers([policy, base], 3, ROOM, PAIRS)
    assert lower is not None
    room = lower.room
    passes = [count_passes(base), count_passes(policy)]
    scores = score(policy, base, base.response_batch(*texts))
    assert sum(count() for count in passes) == 1
    assert torch.equal(scores.kl, expected.kl)
    assert torch.equal(scores.reference_logp, expected.reference_logp)
    assert lower.room == room


def test_states_that_were_first_asked_for_without_autograd_can_be_trained_over() -> None:
    base, policy = upper_adapter()
    share_lower_layers([policy, base], 3, 0, PROBED)
    expected = found(policy, PAIRS, range(5))
    share_lower_layers([policy, base], 3, ROOM, PROBED)
    with torch.inference_mode():
        token_logps(base, base.batch(PAIRS, range(5)))
    assert_same(found(policy, PAIRS, range(5)), expected)


def test_no_more_is_kept_than_there_is_room_for() -> None:
    """And what is not kept is right all the same."""
    base, policy = upper_adapter()
    share_lower_layers([policy, base], 3, 0, PROBED)
    expected = [found(policy, PAIRS, numbers) for numbers in STEPS]
    width, tokens = 64 * 4, PAIRS.sizes.cumsum()
    lower = share_lower_layers([policy, base], 3, int(tokens[10]) * width, PAIRS)
    assert lower is not None
    for _ in range(2):
        for numbers, values in zip(STEPS, expected, strict=True):
            assert_same(found(policy, PAIRS, numbers), values)
    assert 0 <= lower.room < int(PAIRS.sizes.max()) * width
    assert 0.3 < lower.share(PAIRS) < 0.9
    lower.asked = lower.hits = 0
    found(policy, PAIRS, range(17))
    assert 0 < lower.hits < lower.asked == 17


def test_layers_that_are_computed_again_in_the_backward_pass_go_together_with_it() -> None:
    base, policy = upper_adapter()
    share_lower_layers([policy, base], 3, 0, PROBED)
    expected = [found(policy, PAIRS, numbers) for numbers in STEPS]
    checkpoint_layers(policy.model)
    assert share_lower_layers([policy, base], 3, ROOM, PAIRS) is not None
    for numbers, values in zip(STEPS, expected, strict=True):
        assert_same(found(policy, PAIRS, numbers), values)


@pytest.mark.slow
def test_compiled_layers_go_together_with_it() -> None:
    base, policy = upper_adapter("llama", "bf16")
    compile_alike([policy, base], "aot_eager")
    assert policy.compiled is not None
    expected = [found(policy, PAIRS, numbers) for numbers in STEPS[:3]]
    assert share_lower_layers([policy, base], 3, ROOM, PAIRS) is not None
    for numbers, values in zip(STEPS[:3], expected, strict=True):
        assert_same(found(policy, PAIRS, numbers), values)


def test_a_model_is_as_it_was_after_each_pass() -> None:
    base, policy = upper_adapter()
    before = [decoder_layers(one.model) for one in (base, policy)]
    share_lower_layers([policy, base], 3, ROOM, PAIRS)
    found(policy, PAIRS, range(5))
    with pytest.raises(IndexError):
        token_logps(policy, policy.batch(PAIRS, [99]))
    for one, layers in zip((base, policy), before, strict=True):
        assert all(a is b for a, b in zip(decoder_layers(one.model), layers, strict=True))


def skips_layers(model: Any) -> None:
    """Let the uppermost layer read what the lowest one gave, as some architectures do."""
    layers = decoder_layers(model)
    seen: dict[str, Tensor] = {}
    layers[0].register_forward_hook(lambda _, __, out: seen.update(out=out))
    layers[-1].register_forward_hook(lambda _, __, out: out + seen["out"])


def test_a_model_whose_upper_layers_read_more_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    base, policy = upper_adapter()
    skips_layers(policy.model)
    expected = found(policy, PAIRS, range(6))
    with caplog.at_level(logging.INFO):
        assert share_lower_layers([policy, base], 3, ROOM, PAIRS) is None
    assert "the lower 3 layers of LlamaForCausalLM are computed in each pass" in caplog.text
    assert policy.lower is None
    assert base.lower is None
    assert_same(found(policy, PAIRS, range(6)), expected)


def test_where_it_cannot_be_it_is_not_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    base, policy = upper_adapter("gemma2")
    with caplog.at_level(logging.INFO):
        assert share_lower_layers([policy, base], 3, ROOM, PAIRS) is None
    assert "computed in each pass: its texts are padded" in caplog.text
    assert policy.lower is None


def test_an_adapter_over_a_model_with_kept_states_begins_without_them() -> None:
    base, policy = upper_adapter()
    share_lower_layers([policy, base], 3, ROOM, PAIRS)
    assert isinstance(base.lower, LowerLayers)
    assert with_adapter(base, LoRA(rank=2), "the base").lower is None
