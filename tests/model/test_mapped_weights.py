"""Frozen weights in a file: the same bits, in memory once, and nobody else's when written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dpo_bench.model import mapped_weights
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.load import load_model
from dpo_bench.model.logprobs import batch_logps
from dpo_bench.model.mapped_weights import FILE, LEAST_BYTES, map_weights, worth_mapping


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob(f"mapped-weights/*/{FILE}"))


def test_log_probs_and_weights_keep_their_bits(llama_folder: Path) -> None:
    backend = choose_backend(load_model(llama_folder), longest=12)
    batch = backend.response_batch([[3, 4, 5], [6]], [[7, 8], [9, 10, 11]])
    before = {name: one.clone() for name, one in backend.model.named_parameters()}
    with torch.no_grad():
        expected = batch_logps(backend, batch)
        assert map_weights(backend.model, "weights")
        assert torch.equal(batch_logps(backend, batch), expected)
    after = dict(backend.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    assert all(one.data_ptr() % 64 == 0 for one in after.values()), "as torch's own memory"


def test_two_models_lie_in_one_file_and_a_write_is_the_writers_own(
    llama_folder: Path, cache: Path
) -> None:
    first, second = load_model(llama_folder), load_model(llama_folder)
    assert map_weights(first, "weights")
    written = files(cache)[0].read_bytes()
    assert map_weights(second, "weights")

    (file,) = files(cache)
    maps = Path("/proc/self/maps")
    if maps.is_file():
        assert sum(str(file) in line for line in maps.read_text().splitlines()) >= 2
    name, one = next(iter(first.named_parameters()))
    kept = dict(second.named_parameters())[name].clone()
    with torch.no_grad():
        one.add_(1.0)
    assert torch.equal(dict(second.named_parameters())[name], kept)
    assert file.read_bytes() == written


def test_other_weights_have_another_file(llama_folder: Path, cache: Path) -> None:
    assert map_weights(load_model(llama_folder), "one")
    assert map_weights(load_model(llama_folder), "other")
    assert len(files(cache)) == 2


def test_without_a_place_for_the_file_the_model_stays_as_it_is(
    llama_folder: Path, cache: Path
) -> None:
    cache.write_text("a file where the folder would be")
    model: Any = load_model(llama_folder)
    before = {name: one.data_ptr() for name, one in model.named_parameters()}
    assert not map_weights(model, "weights")
    assert {name: one.data_ptr() for name, one in model.named_parameters()} == before


def test_what_is_worth_a_file(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(llama_folder)
    assert sum(one.nbytes for one in model.parameters()) < LEAST_BYTES
    assert not worth_mapping(model, "fp32"), "it is small"
    monkeypatch.setattr(mapped_weights, "LEAST_BYTES", 1)
    assert worth_mapping(model, "fp32")
    assert not worth_mapping(model, "bf16"), "its weights are put into bf16 for each worker"
