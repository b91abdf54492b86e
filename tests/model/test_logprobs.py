"""Every path gives the log-probs of the naive full-sequence computation, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_bench.model import logprobs as logps
from dpo_bench.model.logprob_backends import FullLogitsBackend, HiddenStateBackend, OwnHeadBackend
from dpo_bench.model.logprobs import choose_backend, score, sum_by_row, token_logps
from tests.model.architectures import (
    ARCHITECTURES,
    OWN_HEAD,
    VOCABULARY,
    naive_logps,
    random_batch,
    rounding,
    tiny_model,
)

NORMS_IN_FP32 = {"gemma2", "cohere"}


def gradients(model: Any, logps: torch.Tensor) -> list[torch.Tensor]:
    """Of an uneven sum of log-probs, with respect to every weight that has one."""
    weights = torch.linspace(-1, 2, len(logps), dtype=logps.dtype)
    found = torch.autograd.grad(
        (logps * weights).sum(), list(model.parameters()), allow_unused=True
    )
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_chosen_path_equals_the_naive_computation(architecture: str) -> None:
    model, batch = tiny_model(architecture), random_batch()
    backend = choose_backend(model)

    found, expected = token_logps(backend, batch), naive_logps(model, batch)

    torch.testing.assert_close(found, expected, rtol=0, atol=rounding(architecture, 1e-12))
    # Some norms add up the gradient of their weight in fp32, whatever the model's precision.
    tolerance = rounding(architecture, 2e-6 if architecture in NORMS_IN_FP32 else 1e-11)
    for ours, naive in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, naive, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_paths_agree_where_both_are_right(architecture: str) -> None:
    model, batch = tiny_model(architecture), random_batch(seed=1)
    kind = OwnHeadBackend if architecture in OWN_HEAD else HiddenStateBackend

    states = token_logps(kind(model), batch)

    full = token_logps(FullLogitsBackend(model), batch)
    torch.testing.assert_close(states, full, rtol=0, atol=1e-12)


def test_fp32_is_close_to_fp64() -> None:
    exact, batch = tiny_model("llama"), random_batch()
    rounded = tiny_model("llama", torch.float32)
    rounded.load_state_dict(exact.state_dict())

    found = token_logps(choose_backend(rounded), batch)

    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), token_logps(choose_backend(exact), batch), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
@pytest.mark.parametrize("at_once", [VOCABULARY, 3 * VOCABULARY, 7 * VOCABULARY + 1])
def test_slices_change_nothing(
    architecture: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny_model(architecture), random_batch()
    other = tiny_model(architecture, attention_dropout=0.0)
    for parameter in other.parameters():
        parameter.data.mul_(1.1)
    path, reference = choose_backend(model), choose_backend(other)
    whole, whole_scores = token_logps(path, batch), score(path, reference, batch)
    whole_gradients = gradients(model, whole)

    monkeypatch.setattr(logps, "LOGITS_AT_ONCE", at_once)
    sliced, sliced_scores = token_logps(path, batch), score(path, reference, batch)

    assert logps.tokens_at_once(path) < len(whole)
    torch.testing.assert_close(sliced, whole, rtol=0, atol=1e-13)
    for ours, expected in zip(gradients(model, sliced), whole_gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)
    for name in ("policy_logp", "reference_logp", "kl", "entropy"):
        torch.testing.assert_close(
            getattr(sliced_scores, name), getattr(whole_scores, name), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_a_row_has_the_same_values_alone_and_in_company(architecture: str) -> None:
    path, batch = choose_backend(tiny_model(architecture)), random_batch(rows=5, seed=2)
    together = torch.split(token_logps(path, batch), batch.lengths.tolist())

    for row, expected in enumerate(together):
        mine = batch.row == row
        end = int(batch.position[mine][-1]) + 2
        alone = type(batch)(
            input_ids=batch.input_ids[row : row + 1, :end],
            row=torch.zeros_like(batch.row[mine]),
            position=batch.position[mine],
            target=batch.target[mine],
            lengths=batch.lengths[row : row + 1],
        )
        torch.testing.assert_close(
            token_logps(path, alone), expected, rtol=0, atol=rounding(architecture, 1e-12)
        )


def test_what_fills_the_padding_does_not_matter() -> None:
    path, batch = choose_backend(tiny_model("llama")), random_batch()
    expected = token_logps(path, batch)
    last = batch.position.new_zeros(len(batch.lengths))
    last.scatter_reduce_(0, batch.row, batch.position, "amax")
    behind = torch.arange(batch.input_ids.shape[1]) > last[:, None] + 1
    assert behind.any()

    batch.input_ids[behind] = VOCABULARY - 1

    torch.testing.assert_close(token_logps(path, batch), expected, rtol=0, atol=1e-12)


def test_a_batch_without_response_tokens_gives_none() -> None:
    batch = random_batch(rows=1)
    empty = batch.row[:0]
    batch = type(batch)(batch.input_ids, empty, empty, empty, torch.zeros(1, dtype=torch.long))

    assert token_logps(choose_backend(tiny_model("gpt2")), batch).shape == (0,)


def test_kl_of_equal_models_is_exactly_zero() -> None:
    model, batch = tiny_model("llama", torch.float32), random_batch()

    scores = score(choose_backend(model), choose_backend(model), batch)

    assert torch.equal(scores.kl, torch.zeros_like(scores.kl))
    assert torch.equal(scores.policy_logp, scores.reference_logp)


@pytest.mark.parametrize("architecture", ["qwen3", "cohere"])
def test_scores_match_explicit_sums(architecture: str) -> None:
    policy, reference, batch = tiny_model(architecture), tiny_model(architecture), random_batch()
    for parameter in reference.parameters():
        parameter.data.add_(0.05)

    scores = score(choose_backend(policy), choose_backend(reference), batch)

    mine = policy(input_ids=batch.input_ids).logits[batch.row, batch.position].softmax(-1)
    theirs = reference(input_ids=batch.input_ids).logits[batch.row, batch.position].softmax(-1)
    for token in range(len(batch.row)):
        p, q, target = mine[token], theirs[token], batch.target[token]
        kl = sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
        entropy = -sum(a * a.log() for a in p)
        torch.testing.assert_close(scores.kl[token], kl, rtol=0, atol=1e-12)
        torch.testing.assert_close(scores.entropy[token], entropy, rtol=0, atol=1e-12)
        torch.testing.assert_close(scores.policy_logp[token], p[target].log(), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            scores.reference_logp[token], q[target].log(), rtol=0, atol=1e-12
        )
    assert (scores.kl > 0).all()
    assert not scores.kl.requires_grad


def test_impossible_tokens_add_nothing() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -2000.0]])
    other = torch.tensor([[1.0, 0.0, -torch.inf, 0.0]])
    target = torch.tensor([0])

    own, _, kl, entropy = logps._compare(logits, other, target)

    p = logits[0, :2].softmax(-1)
    q = other[0, [0, 1, 3]].softmax(-1)[:2]
    torch.testing.assert_close(own, p[:1].log())
    torch.testing.assert_close(kl, (p * (p / q).log()).sum()[None])
    torch.testing.assert_close(entropy, -(p * p.log()).sum()[None])


def test_a_token_that_only_the_reference_excludes_makes_the_kl_infinite() -> None:
    logits, other = torch.zeros(1, 2), torch.tensor([[0.0, -torch.inf]])

    kl = logps._compare(logits, other, torch.tensor([0]))[2]

    assert kl.item() == torch.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sum_by_row_sums_rows(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=dtype)

    sums = sum_by_row(values, torch.tensor([2, 0, 3]))

    assert sums.dtype == dtype
    assert sums.tolist() == [3.0, 0.0, 28.0]


def test_sum_by_row_has_the_right_gradient() -> None:
    lengths = torch.tensor([3, 0, 5, 1])
    values = torch.randn(
        9, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )

    assert torch.autograd.gradcheck(lambda x: sum_by_row(x, lengths), (values,))


def test_sum_by_row_refuses_lengths_that_do_not_add_up() -> None:
    with pytest.raises(RuntimeError, match="lengths"):
        sum_by_row(torch.ones(4), torch.tensor([2, 1]))


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-100, 0, width=32), max_size=6), min_size=1, max_size=5))
def test_sum_by_row_is_the_correctly_rounded_sum(rows: list[list[float]]) -> None:
    values = torch.tensor([value for row in rows for value in row], dtype=torch.float32)
    lengths = torch.tensor([len(row) for row in rows])

    sums = sum_by_row(values, lengths)

    expected = torch.tensor([sum(row) for row in rows], dtype=torch.float64).float()
    torch.testing.assert_close(sums, expected, rtol=1.2e-7, atol=0)


def test_a_long_row_does_not_drift() -> None:
    values = torch.full((4096,), -3.3)

    total = sum_by_row(values, torch.tensor([4096]))

    assert total.item() == pytest.approx(4096 * values[0].item(), rel=6e-8)
