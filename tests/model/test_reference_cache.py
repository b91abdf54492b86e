"""The reference's log-probs: computed once, found by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dpo_bench.data.mismatches import Mismatches
from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.load import load_model
from dpo_bench.model.logprob_backends import FullLogitsBackend
from dpo_bench.model.logprobs import LogprobBackend, choose_backend, response_logps
from dpo_bench.model.reference_cache import (
    ReferenceLogps,
    mismatched_reference_logps,
    reference_logps,
)
from dpo_bench.storage import cache_root


def pairs(count: int = 40, seed: int = 0) -> TokenizedPairs:
    generator = np.random.default_rng(seed)
    prompt, chosen, rejected = (
        Ragged.of([generator.integers(3, 300, n).astype(np.int32) for n in lengths])
        for lengths in generator.integers(1, 9, (3, count))
    )
    return TokenizedPairs(prompt, chosen, rejected)


@pytest.fixture(scope="module")
def backend(llama_folder: Path) -> LogprobBackend:
    return choose_backend(load_model(llama_folder, "cpu"), "fp32")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path))


def files() -> list[Path]:
    return sorted((cache_root() / "reference-logps").glob("*"))


def compute(backend: LogprobBackend, data: TokenizedPairs, model: str = "m") -> ReferenceLogps:
    return reference_logps(backend, data, model, "cpu/fp32")


def test_sums_equal_the_plain_double_forward(backend: LogprobBackend) -> None:
    data = pairs()
    found = compute(backend, data)
    for index in range(len(data)):
        prompt, *responses = (side.tolist() for side in data.pair(index))
        for response, value in zip(responses, (found.chosen, found.rejected), strict=True):
            ids = torch.tensor([prompt + response])
            with torch.no_grad():
                logps = backend.model(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            plain = logps.gather(-1, ids[0, len(prompt) :, None]).sum()
            assert value[index].item() == pytest.approx(plain.item(), rel=1e-5)


def test_a_second_call_reads_the_cache(backend: LogprobBackend) -> None:
    first = compute(backend, pairs())
    (entry,) = files()
    before = (entry / "logps.npz").stat().st_mtime_ns
    phases: list[str] = []
    second = reference_logps(
        backend, pairs(), "m", "cpu/fp32", lambda phase, *_: phases.append(phase)
    )
    assert phases == []
    assert (entry / "logps.npz").stat().st_mtime_ns == before
    assert torch.equal(first.chosen, second.chosen)
    assert torch.equal(first.rejected, second.rejected)


def test_other_weights_data_or_precision_are_other_entries(backend: LogprobBackend) -> None:
    compute(backend, pairs())
    compute(backend, pairs(), model="other")
    compute(backend, pairs(seed=1))
    reference_logps(backend, pairs(), "m", "cuda/bf16")
    assert len(files()) == 4


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_entry_is_made_anew(backend: LogprobBackend, damage: str) -> None:
    first = compute(backend, pairs())
    (entry,) = files()
    file = entry / "logps.npz"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content[: {"flip": len(content), "cut": 99, "empty": 0}[damage]]))
    second = compute(backend, pairs())
    assert torch.equal(first.chosen, second.chosen)
    assert torch.equal(first.rejected, second.rejected)


def test_a_reference_that_is_not_finite_is_an_error(llama_folder: Path) -> None:
    broken = load_model(llama_folder, "cpu")
    next(broken.parameters()).data[5] = float("nan")
    with pytest.raises(EnvironmentProblem, match="not finite"):
        reference_logps(FullLogitsBackend(broken), pairs(), "m", "cpu/fp32")
    assert files() == []


def test_mismatched_responses_are_kept_too(backend: LogprobBackend) -> None:
    mismatches = Mismatches(pairs())
    phases: list[str] = []

    def read() -> torch.Tensor:
        return mismatched_reference_logps(
            backend, mismatches, "m", "cpu/fp32", lambda phase, *_: phases.append(phase)
        )

    first = read()
    told = len(phases)
    assert told > 0
    assert torch.equal(read(), first)
    assert len(phases) == told
    compute(backend, pairs())
    assert len(files()) == 2, "an entry of their own"
    expected = response_logps(backend, *mismatches.texts([0, 7]))
    assert first[[0, 7]].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
