"""Packed texts have the log-probs and gradients that each has alone; models for which that does not
hold are found out."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpo_bench.data.batches import split_passes
from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.logprob_backends import FullLogitsBackend, HiddenStateBackend
from dpo_bench.model.logprobs import score, sum_by_row, token_logps
from tests.model.architectures import VOCABULARY, tiny_model, with_exact_norms

PACKED = ["gpt2", "llama", "qwen2", "qwen3", "opt", "cohere", "granite"]
NORMS_IN_FP32 = {"cohere"}


def unequal_pairs(count: int = 6, seed: int = 0) -> TokenizedPairs:
    generator = np.random.default_rng(seed)
    prompt, chosen, rejected = (
        Ragged.of(
            [
                generator.integers(0, VOCABULARY, length).astype(np.int32)
                for length in generator.integers(1, most + 1, count)
            ]
        )
        for most in (7, 13, 13)
    )
    return TokenizedPairs(prompt, chosen, rejected)


PAIRS = unequal_pairs()


def naive_sums(model: Any, pairs: TokenizedPairs, indices: Any) -> Tensor:
    """Two whole forward passes for each pair, one row each: chosen, then rejected, shape [2 n]."""
    found = []
    for side in (pairs.chosen, pairs.rejected):
        for index in indices:
            prompt, response = pairs.prompt[index].tolist(), side[index].tolist()
            ids = torch.tensor([prompt + response])
            logps = model(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            found.append(logps.gather(-1, ids[0, len(prompt) :, None]).sum())
    return torch.stack(found)


def dpo_gradients(model: Any, sums: Tensor) -> list[Tensor]:
    chosen, rejected = sums.chunk(2)
    loss = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("architecture", PACKED)
def test_a_pack_equals_the_naive_double_forward(architecture: str) -> None:
    model = with_exact_norms(tiny_model(architecture))
    backend = choose_backend(model, longest=24)
    assert backend.packs
    batch = backend.batch(PAIRS, range(len(PAIRS)))

    found = sum_by_row(token_logps(backend, batch), batch.lengths)

    expected = naive_sums(model, PAIRS, range(len(PAIRS)))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    tolerance = 2e-6 if architecture in NORMS_IN_FP32 else 1e-12
    for ours, naive in zip(
        dpo_gradients(model, found), dpo_gradients(model, expected), strict=True
    ):
        torch.testing.assert_close(ours, naive, rtol=tolerance, atol=tolerance)


def test_fp32_is_within_1e_5() -> None:
    exact, rounded = tiny_model("llama"), tiny_model("llama", torch.float32)
    rounded.load_state_dict(exact.state_dict())
    backend = choose_backend(rounded, longest=24)
    batch = backend.batch(PAIRS, range(len(PAIRS)))

    found = sum_by_row(token_logps(backend, batch), batch.lengths)

    expected = naive_sums(exact, PAIRS, range(len(PAIRS)))
    assert backend.packs
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    ours, naive = (
        torch.cat([g.flatten().double() for g in dpo_gradients(model, sums)])
        for model, sums in ((rounded, found), (exact, expected))
    )
    assert (ours - naive).norm() < 1e-5 * naive.norm()


@pytest.mark.parametrize("kind", [HiddenStateBackend, FullLogitsBackend])
def test_neither_order_nor_budget_changes_a_step(kind: Any) -> None:
    model = tiny_model("llama")
    path = kind(model, packs=True)
    whole = path.batch(PAIRS, range(len(PAIRS)))
    sums = sum_by_row(token_logps(path, whole), whole.lengths).chunk(2)
    loss = -torch.nn.functional.logsigmoid(sums[0] - sums[1]).sum()
    expected = torch.autograd.grad(loss, list(model.parameters()))

    for order, budget in (([3, 1, 5, 0, 2, 4], 40), ([5, 4, 3, 2, 1, 0], 1)):
        parts = split_passes(PAIRS, order, tokens_per_pass=budget)
        assert len(parts) > 1
        model.zero_grad()
        for part in parts:
            batch = path.batch(PAIRS, part)
            chosen, rejected = sum_by_row(token_logps(path, batch), batch.lengths).chunk(2)
            torch.testing.assert_close(chosen, sums[0][part], rtol=0, atol=1e-12)
            torch.testing.assert_close(rejected, sums[1][part], rtol=0, atol=1e-12)
            (-torch.nn.functional.logsigmoid(chosen - rejected).sum()).backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-11, atol=1e-12)


def test_samples_of_one_prompt_score_as_they_do_alone() -> None:
    policy, reference = tiny_model("llama"), tiny_model("llama")
    for parameter in reference.parameters():
        parameter.data.mul_(1.2)
    prompts, responses = [[1, 2, 3]] * 3 + [[4]], [[5, 6], [7], [8, 9, 10], [11, 2]]
    scores = []
    for packs in (True, False):
        ours, theirs = (
            HiddenStateBackend(policy, packs=packs),
            HiddenStateBackend(reference, packs=packs),
        )
        scores.append(score(ours, theirs, ours.response_batch(prompts, responses)))

    for name in ("policy_logp", "reference_logp", "kl", "entropy"):
        torch.testing.assert_close(
            getattr(scores[0], name), getattr(scores[1], name), rtol=0, atol=1e-12
        )


def test_three_responses_to_a_prompt_have_the_right_gradient() -> None:
    model = with_exact_norms(tiny_model("llama"))
    prompts, responses = [[1, 2, 3]] * 3, [[5, 6], [7], [8, 9, 10]]
    gradients = []
    for packs in (True, False):
        path = HiddenStateBackend(model, packs=packs)
        logps = token_logps(path, path.response_batch(prompts, responses))
        weighted = (logps * torch.arange(1.0, 7.0)).sum()
        gradients.append(torch.autograd.grad(weighted, list(model.parameters())))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "position biases": ("bloom", {}),
    "a recurrent state": ("mamba", {}),
    "a sliding window": ("mistral", {"sliding_window": 20}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", OTHERS)
def test_models_that_cannot_be_packed_are_padded(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    architecture, options = OTHERS[what]
    model = tiny_model(architecture, torch.float32, **options)

    with caplog.at_level(logging.INFO, "dpo_bench"):
        backend = choose_backend(model, longest=24)

    assert not backend.packs
    lines = [message for message in caplog.messages if "is not packed" in message]
    assert len(lines) == 1
    assert type(model).__name__ in lines[0]


def test_a_window_beyond_the_longest_text_does_not_matter() -> None:
    model = tiny_model("mistral", sliding_window=24)
    backend = choose_backend(model, longest=24)
    assert backend.packs
    batch = backend.batch(PAIRS, range(len(PAIRS)))
    torch.testing.assert_close(
        sum_by_row(token_logps(backend, batch), batch.lengths),
        naive_sums(model, PAIRS, range(len(PAIRS))),
        rtol=0,
        atol=1e-12,
    )


def test_the_model_s_own_attention_is_put_back() -> None:
    model = tiny_model("llama")
    before = model.config._attn_implementation
    backend = choose_backend(model)
    assert model.config._attn_implementation == before
    model.config._attn_implementation = "eager"  # packing asks for nothing else afterwards
    token_logps(backend, backend.batch(PAIRS, [0]))
    assert model.config._attn_implementation == "eager"
