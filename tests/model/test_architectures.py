"""A few architectures through the whole program; ``benchmarks.architectures`` tries all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.architectures.checks import Outcome, check
from benchmarks.architectures.models import save_model, write_pairs


def tried(folder: Path, kind: str, *, chat: bool, lora: bool, **more: Any) -> Outcome:
    save_model(folder / "model", kind, **more)
    write_pairs(folder / "pairs.jsonl", chat=chat)
    return check(kind, folder / "model", folder / "pairs.jsonl", folder, lora=lora)


@pytest.mark.parametrize(
    ("kind", "sampling"), [("llama", "batched"), ("mamba", "equal"), ("rwkv", "uncached")]
)
def test_every_way_to_sample_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, sampling: str
) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    outcome = tried(tmp_path, kind, chat=kind == "llama", lora=False)
    assert (outcome.verdict, outcome.sampling) == ("right", sampling), outcome
    assert bool(outcome.notes) is (kind != "llama"), "what is not quick is said"


def test_a_tied_model_with_an_adapter_on_chat_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    outcome = tried(tmp_path, "llama", chat=True, lora=True, tie_word_embeddings=True)
    assert outcome.verdict == "right", outcome


def test_an_adapter_leaves_out_what_is_no_matrix_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Llama 4's router is a linear layer by its class, and gives scores and logits.
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    outcome = tried(tmp_path, "llama4_text", chat=False, lora=True)
    assert outcome.verdict == "right", outcome


@pytest.mark.parametrize("kind", ["llama dynamic rope", "phi3 longrope"])
def test_positions_scaled_by_the_longest_text_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    outcome = tried(tmp_path, kind, chat=False, lora=False)
    assert outcome.verdict == "refused"
    assert "scaled by the longest text of a batch" in outcome.refused


def test_a_small_convolution_across_packed_texts_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    outcome = tried(tmp_path, "lfm2 weak convolutions", chat=False, lora=False)
    assert (outcome.verdict, outcome.log_probs) == ("right", "hidden"), outcome
