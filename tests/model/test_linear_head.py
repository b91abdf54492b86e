"""Log-probs of targets without kept logits: the naive softmax's values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_bench.model import logprobs
from dpo_bench.model.linear_head import linear_logits, product, target_logps
from dpo_bench.model.logprob_backends import HiddenStateBackend
from dpo_bench.model.logprobs import token_logps
from tests.model.architectures import VOCABULARY, naive_logps, random_batch, tiny_model

TOKENS, WIDTH = 23, 8


def operands(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> list[Tensor]:
    """States, weight and bias, in fp64 but of values that ``dtype`` has; leaves."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(TOKENS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)][: 3 if bias else 2]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [(2 * value).to(dtype).double().requires_grad_() for value in drawn]


def targets() -> Tensor:
    return torch.randint(0, VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(1))


def slopes(dtype: torch.dtype = torch.float64) -> Tensor:
    """An upstream gradient of its own for every token."""
    return torch.linspace(-1, 2, TOKENS, dtype=dtype)


def naive(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    logits = states @ weight.t() + (0 if bias is None else bias)
    return logits.log_softmax(-1)[torch.arange(TOKENS), targets()]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("at_once", [1, 5, 23, 100])
def test_values_and_gradients_are_the_naive_ones(bias: bool, at_once: int) -> None:
    given = operands(bias=bias)

    offset = given[2] if bias else None
    found = target_logps(given[0], given[1], offset, targets(), at_once)

    expected = naive(*given)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    ours = torch.autograd.grad(found, given, slopes())
    for mine, true in zip(ours, torch.autograd.grad(expected, given, slopes()), strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-12)


def test_no_gradient_is_made_for_what_is_frozen() -> None:
    states, weight, bias = operands()
    found = target_logps(states, weight.detach(), bias.detach(), targets(), 5)

    (ours,) = torch.autograd.grad(found, [states], slopes())

    expected = naive(states, weight, bias)
    (true,) = torch.autograd.grad(expected, [states], slopes())
    torch.testing.assert_close(ours, true, rtol=0, atol=1e-12)
    assert not target_logps(
        states.detach(), weight.detach(), bias.detach(), targets(), 5
    ).requires_grad


def test_logits_far_from_zero_stay_finite_and_right() -> None:
    states, weight, bias = operands()
    large = (1e4 * states).detach().requires_grad_()
    found = target_logps(large, weight, bias, targets(), 5)
    expected = naive(large, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (ours,), (true,) = (torch.autograd.grad(one, [large], slopes()) for one in (found, expected))
    torch.testing.assert_close(ours, true, rtol=0, atol=1e-10)


def test_factors_in_bf16_give_log_probs_in_fp32() -> None:
    """A product of two bf16 numbers is exact in fp32: only adding them up rounds."""
    exact = operands(torch.bfloat16)
    given = [value.detach().bfloat16().requires_grad_() for value in exact]

    found = target_logps(given[0], given[1], given[2], targets(), 5)

    assert found.dtype == torch.float32
    expected = naive(*exact)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
    ours = torch.autograd.grad(found, given, slopes(torch.float32))
    for mine, true in zip(ours, torch.autograd.grad(expected, exact, slopes()), strict=True):
        assert mine.dtype == torch.bfloat16
        cosine = torch.cosine_similarity(mine.double().flatten(), true.flatten(), 0)
        assert cosine > 0.9999


def test_logits_in_fp32_of_bf16_have_their_gradient() -> None:
    exact = operands(torch.bfloat16)
    given = [value.detach().bfloat16().requires_grad_() for value in exact]

    found = linear_logits(given[0], given[1], given[2])

    expected = exact[0] @ exact[1].t() + exact[2]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad(found, given, upstream)
    for mine, true in zip(
        ours, torch.autograd.grad(expected, exact, upstream.double()), strict=True
    ):
        assert torch.cosine_similarity(mine.double().flatten(), true.flatten(), 0) > 0.9999


def test_a_product_in_other_precisions_is_torchs() -> None:
    left, right = operands()[0].detach(), operands()[1].detach().t()
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(
            product(left.to(dtype), right.to(dtype)), left.to(dtype) @ right.to(dtype)
        )


def gradients(model: Any, logps: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(logps, list(model.parameters()), slopes()[: len(logps)]))


@pytest.mark.parametrize("shared", [None, VOCABULARY - 9])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_has_its_gradients_in_slices_too(
    tied: bool, shared: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the embedding is tied to the head both add to one gradient."""
    model, batch = tiny_model("llama", tie_word_embeddings=tied), random_batch()
    batch.target.clamp_(max=VOCABULARY - 10)
    backend = HiddenStateBackend(model)
    backend.shared_vocabulary = shared
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 5 * VOCABULARY)

    found = token_logps(backend, batch)

    if shared is None:
        expected = naive_logps(model, batch)
    else:
        hidden = model.base_model(input_ids=batch.input_ids).last_hidden_state
        logits = (hidden @ model.lm_head.weight.t())[batch.row, batch.position, :shared]
        expected = logits.log_softmax(-1).gather(-1, batch.target[:, None]).squeeze(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for ours, true in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-11, atol=1e-11)
