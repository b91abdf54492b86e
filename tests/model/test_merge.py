"""Folders with an adapter, as peft saves them, are models."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.experiment.config import World
from dpo_bench.model.files import ModelFolder
from dpo_bench.model.load import load_model, load_tokenizer
from dpo_bench.model.source import resolve_model
from tests.conftest import tiny_folder

IDS = torch.tensor([[5, 9, 17, 4, 250]])


@pytest.fixture
def adapter(llama_folder: Path, tmp_path: Path) -> Path:
    """An adapter that peft made, trained at random, and saved without a tokenizer."""
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what peft asks a model is deprecated
        torch.manual_seed(3)
        model = get_peft_model(load_model(llama_folder), config)
    folder = tmp_path / "adapter"
    model.save_pretrained(str(folder))
    torch.save(model(input_ids=IDS).logits.detach(), tmp_path / "logits.pt")
    return folder


def resolve(folder: Path) -> ModelFolder:
    return resolve_model(str(folder), world=World())


def rename_base(adapter: Path, name: str | None) -> None:
    file = adapter / "adapter_config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "base_model_name_or_path": name}))


def test_it_becomes_its_base_with_the_adapter_merged_in(adapter: Path, llama_folder: Path) -> None:
    found = resolve(adapter)

    assert found.label == "adapter"
    assert found.digest != resolve(llama_folder).digest
    expected = torch.load(adapter.parent / "logits.pt")
    assert (load_model(llama_folder)(input_ids=IDS).logits - expected).abs().max() > 0.01
    torch.testing.assert_close(load_model(found)(input_ids=IDS).logits, expected)
    text = "is tea good?"
    assert load_tokenizer(found)(text) == load_tokenizer(llama_folder)(text)


def test_it_is_merged_once(adapter: Path) -> None:
    first = resolve(adapter)
    before = (first.path / "model.safetensors").stat().st_mtime_ns
    assert resolve(adapter) == first
    assert (first.path / "model.safetensors").stat().st_mtime_ns == before


def test_its_own_tokenizer_comes_first(
    adapter: Path, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokenizer = load_tokenizer(llama_folder)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(adapter)
    assert load_tokenizer(resolve(adapter)).chat_template == tokenizer.chat_template


def test_a_base_that_is_not_there_is_named(adapter: Path, tmp_path: Path) -> None:
    rename_base(adapter, str(tmp_path / "gone"))
    with pytest.raises(EnvironmentProblem, match=r"no model at .*gone.*base_model_name_or_path of"):
        resolve(adapter)
    rename_base(adapter, None)
    with pytest.raises(EnvironmentProblem, match="does not name the adapter's base model"):
        resolve(adapter)


def test_an_adapter_without_safetensors_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(EnvironmentProblem, match=r"adapter has no adapter_model\.safetensors"):
        resolve(adapter)


def test_an_adapter_of_another_model_is_refused(
    adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rename_base(adapter, str(tiny_folder(tmp_path_factory, "llama", hidden_size=48)))
    with pytest.raises(EnvironmentProblem, match="cannot be merged into its base model"):
        resolve(adapter)
