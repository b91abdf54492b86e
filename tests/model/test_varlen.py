"""Attention by a kernel for texts of any lengths, whose place plain loops take on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_bench.model import varlen
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.logprobs import sum_by_row, token_logps
from tests.model.architectures import tiny_model, with_exact_norms
from tests.model.test_packed import PAIRS

Given = tuple[Tensor, Tensor, Tensor, Tensor, int, float | None]


def text_by_text(*given: Any) -> Tensor:
    """Causal attention of each text, head by head, from its definition."""
    query, key, value, starts, longest, scale = given
    assert starts.dtype == torch.int32
    assert int(starts.diff().max()) == longest
    groups = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    texts = []
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        heads = []
        for head in range(query.shape[1]):
            q, k, v = (
                one[start:end, at]
                for one, at in ((query, head), (key, head // groups), (value, head // groups))
            )
            heads.append((q @ k.t() * scale).masked_fill(later, -torch.inf).softmax(-1) @ v)
        texts.append(torch.stack(heads, dim=1))
    return torch.cat(texts)


@pytest.fixture
def _loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "causal", text_by_text)


@pytest.mark.usefixtures("_loops")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "granite"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_texts_at_once_are_what_they_are_bucket_by_bucket(
    architecture: str, precision: str
) -> None:
    """Of two key heads and one, with a scale of the model's own and without; filled up and not."""
    model = with_exact_norms(tiny_model(architecture))
    backend = choose_backend(model, longest=24)
    assert backend.attention == "buckets"
    backend.precision = precision  # in fp64 no autocast is wanted: only the packing differs
    backend.autocast = lambda: torch.autocast("cpu", enabled=False)  # type: ignore[method-assign]
    batch = backend.batch(PAIRS, range(len(PAIRS)))
    found = []
    for kernel in ("buckets", "varlen"):
        backend.attention = kernel
        sums = sum_by_row(token_logps(backend, batch), batch.lengths)
        slopes = torch.linspace(-1, 2, len(sums), dtype=torch.float64)
        found.append((sums, *torch.autograd.grad(sums, list(model.parameters()), slopes)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_without_the_kernel_texts_are_computed_by_bucket() -> None:
    backend = choose_backend(tiny_model("llama", torch.float32), "bf16", 24)
    assert backend.packs
    assert backend.attention == "buckets"


@pytest.mark.usefixtures("_loops")
def test_a_kernel_that_is_as_precise_is_taken_in_bf16_alone() -> None:
    model = tiny_model("llama", torch.float32)
    backend = choose_backend(model, "bf16", 24)
    assert backend.attention == "varlen"
    assert "varlen" in backend.numerics
    assert choose_backend(model, "fp32", 24).attention == "buckets"


def test_a_kernel_that_is_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "causal", lambda *given: 1.2 * text_by_text(*given))
    assert choose_backend(tiny_model("llama", torch.float32), "bf16", 24).attention == "buckets"


def old(
    query: Tensor,
    key: Any,
    value: Any,
    _q: Any,
    _k: Any,
    _max_q: int,
    _max_k: int,
    is_causal: bool = False,
) -> Any:  # as torch 2.11 has it
    return {"heads": key.shape[1], "is_causal": is_causal}


def new(
    query: Tensor,
    key: Any,
    value: Any,
    _q: Any,
    _k: Any,
    _max_q: int,
    _max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Any:  # as torch 2.13 has it
    return {"heads": key.shape[1], "window": window_size, "gqa": enable_gqa, "scale": scale}


def called(monkeypatch: pytest.MonkeyPatch, function: Any, scale: float | None) -> Any:
    module = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(module, "varlen_attn", function)
    varlen._kernel.cache_clear()
    try:
        query, key = torch.ones(3, 4, 16), torch.ones(3, 2, 16)
        return varlen.causal(query, key, key, torch.tensor([0, 3]), 3, scale)
    finally:
        varlen._kernel.cache_clear()


def test_each_version_is_called_by_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, old, 0.25) == {"heads": 4, "is_causal": True}
    expected = {"heads": 2, "window": (-1, 0), "gqa": True, "scale": None}
    assert called(monkeypatch, new, None) == expected
    assert called(monkeypatch, new, 0.1)["scale"] == 0.1
    with pytest.raises(NotImplementedError, match="takes no scale"):
        called(monkeypatch, old, 0.1)
