"""Memory that runs out in a pass: planted where a real model's forward or backward pass has it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.logprob_backends import CPU_TOKENS, GPU_TOKENS, suitable_tokens
from dpo_bench.model.out_of_memory import TokenLimit, fitting, fitting_passes
from dpo_bench.model.reference_cache import reference_logps
from tests.model.architectures import tiny_model
from tests.model.test_packed import PAIRS

SIZES = PAIRS.sizes


@contextlib.contextmanager
def memory_for(model: Any, tokens: int, *, backward: bool = False) -> Iterator[list[int]]:
    """While this is open, a pass of more tokens is out of memory; gives those that failed."""
    failed: list[int] = []

    def refuse(count: int) -> None:
        if count > tokens:
            failed.append(count)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    def look(_module: Any, _arguments: Any, output: Any) -> None:
        count = output.shape[0] * output.shape[1]
        if not backward:
            refuse(count)
        elif output.requires_grad:
            output.register_hook(lambda _gradient: refuse(count))

    handle = model.get_input_embeddings().register_forward_hook(look)
    try:
        yield failed
    finally:
        handle.remove()


class Rows:
    """A limit of its own, as sampling has."""

    unit = "rows"
    most = 8

    def now(self) -> int:
        return self.most

    def lower(self, most: int) -> None:
        self.most = most


def test_passes_go_on_where_one_did_not_fit_and_stay_small() -> None:
    limit, tried = Rows(), []

    def compute(part: range) -> int:
        tried.append(part)
        if len(part) > 3:
            raise torch.OutOfMemoryError("full")
        return sum(part)

    found = list(fitting_passes(limit, np.ones(10, np.int64), compute))

    assert tried[:3] == [range(8), range(4), range(2)]
    assert [part for part, _ in found] == [range(at, at + 2) for at in range(0, 10, 2)]
    assert sum(value for _, value in found) == sum(range(10))


def test_one_text_that_does_not_fit_is_said_with_what_would() -> None:
    def compute(_part: range) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(EnvironmentProblem, match=r"1 rows in a pass.*checkpointing=full, LoRA"):
        list(fitting_passes(Rows(), np.ones(10, np.int64), compute))


def test_other_errors_are_not_taken_for_it() -> None:
    def attempt() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        fitting(Rows(), np.ones(10, np.int64), attempt)


def test_what_is_limited_stays_below_what_is_wanted() -> None:
    backend = choose_backend(tiny_model("llama"), longest=24)
    assert backend.tokens_per_pass() == CPU_TOKENS[1] == suitable_tokens("cpu", 5)
    assert suitable_tokens("cuda", 5) == GPU_TOKENS
    TokenLimit(backend).lower(100)
    assert [backend.tokens_per_pass(wanted) for wanted in (0, 50, 300)] == [100, 50, 100]


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_reference_log_probs_are_the_same_when_memory_runs_out(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = choose_backend(tiny_model(architecture), longest=24)
    expected = reference_logps(backend, PAIRS, f"enough {architecture}", "cpu/fp32")
    with memory_for(backend.model, int(SIZES.sum()) // 3) as failed, caplog.at_level(logging.INFO):
        found = reference_logps(backend, PAIRS, f"little {architecture}", "cpu/fp32")
    assert failed
    assert "from now on at most" in caplog.text
    torch.testing.assert_close(found.chosen, expected.chosen, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.rejected, expected.rejected, rtol=1e-6, atol=1e-6)
