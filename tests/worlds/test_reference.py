from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpo_bench.storage import file_digest
from dpo_bench.worlds.cache import read_facts
from dpo_bench.worlds.reference_policy import load_reference, private_randomness
from dpo_bench.worlds.tokenizer import token_list
from dpo_bench.worlds.words import POLAR_LISTS
from tests.worlds.small import SMALL, model

WEIGHTS = "model.safetensors"


def test_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model()
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path))
    torch.rand(3)  # what the caller draws does not matter
    second = model()
    assert first != second
    assert first.name == second.name
    assert file_digest(first / WEIGHTS) == file_digest(second / WEIGHTS)
    assert file_digest(model(seed=1) / WEIGHTS) != file_digest(second / WEIGHTS)


def test_building_leaves_the_global_generators_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path))
    torch_before, python_before = torch.get_rng_state(), random.getstate()
    numpy_before = repr(np.random.get_state())
    model()
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert random.getstate() == python_before
    assert repr(np.random.get_state()) == numpy_before


def test_private_randomness_ends_with_its_block_even_on_an_error() -> None:
    state = torch.get_rng_state()
    drawn = []

    def fail_after_drawing() -> None:
        with private_randomness(5):
            drawn.append(torch.rand(1).item())
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail_after_drawing()
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_folder_is_a_llama_that_transformers_loads() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model()
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert loaded.config.model_type == "llama"
    assert loaded.config.tie_word_embeddings
    assert loaded.config.hidden_size == SMALL.width
    assert loaded.config.vocab_size == len(tokenizer) == len(token_list())
    assert (loaded.config.eos_token_id, loaded.config.pad_token_id) == (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    assert read_facts(folder)["parameters"] == sum(p.numel() for p in loaded.parameters())


def test_the_model_has_learnt_from_the_reviews() -> None:
    folder = model()
    loaded, tokenizer = load_reference(folder)
    assert not loaded.training
    ids = tokenizer(" the plot was not very", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        probabilities = loaded(input_ids=ids).logits[0, -1].softmax(-1)
    mild = [f"▁{word}" for word in (POLAR_LISTS["mild+"] + " " + POLAR_LISTS["mild-"]).split()]
    chance = len(mild) / len(tokenizer)
    assert probabilities[tokenizer.convert_tokens_to_ids(mild)].sum() > 3 * chance
    assert read_facts(folder)["final_loss"] < np.log(len(tokenizer)) / 2


def test_progress_tells_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path))
    told: list[tuple[str, int, int]] = []
    model(progress=lambda *state: told.append(state))
    phase = "world: training the reference"
    assert told == [(phase, done, SMALL.steps) for done in range(SMALL.steps + 1)]
    told.clear()
    model(progress=lambda *state: told.append(state))
    assert told == []
