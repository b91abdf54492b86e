"""Where a sweep's model and data are, and what is said first when both are missing."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from dpo_bench.errors import DpoBenchError
from dpo_bench.experiment import Experiment
from dpo_bench.model.load import load_model
from dpo_bench.sweep.sources import find_sources
from tests.conftest import tiny_folder


def experiment(policy: object, preferences: object, **changes: object) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "e",
            "policy": str(policy),
            "preferences": str(preferences),
            "losses": ["dpo"],
            **changes,
        }
    )


def test_weights_are_counted_without_loading_them(llama_folder: Path, pairs_file: Path) -> None:
    found = find_sources(experiment(llama_folder, pairs_file))
    own = load_model(llama_folder, "cpu").state_dict()
    assert found.parameters == sum(value.numel() for value in own.values())
    assert (found.device, found.precision, found.content.device) == ("cpu", "fp32", "cpu/fp32")
    assert found.preferences == str(pairs_file)


def test_weights_are_counted_where_the_tokenizer_comes_as_code(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    found = find_sources(experiment(llama_folder, pairs_file))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(llama_folder / name, tmp_path / name)
    policy = dataclasses.replace(found.policy, path=tmp_path)
    assert dataclasses.replace(found, policy=policy).parameters == found.parameters


def test_reference_is_the_policy_or_a_model_of_its_own(
    llama_folder: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tiny_folder(tmp_path_factory, "llama", seed=1)
    alone = find_sources(experiment(llama_folder, pairs_file))
    assert alone.reference == alone.policy
    assert alone.content.reference == alone.content.policy
    both = find_sources(experiment(llama_folder, pairs_file, reference=str(other)))
    assert both.policy == alone.policy
    assert both.reference.path == other
    assert both.content.reference != both.content.policy


def test_content_is_told_by_what_is_in_the_files(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    there = find_sources(experiment(llama_folder, pairs_file)).content
    copy, less = tmp_path / "copy.jsonl", tmp_path / "less.jsonl"
    lines = pairs_file.read_text().splitlines(keepends=True)
    copy.write_text("".join(lines))
    less.write_text("".join(lines[:-1]))
    assert find_sources(experiment(llama_folder, copy)).content == there
    other = find_sources(experiment(llama_folder, less)).content
    assert other.data != there.data
    assert other.policy == there.policy


def test_missing_data_is_said_before_a_model_is_looked_for(tmp_path: Path) -> None:
    """A world's model may take a minute to build."""
    with pytest.raises(DpoBenchError, match="no-pairs"):
        find_sources(experiment(tmp_path / "no-model", tmp_path / "no-pairs.jsonl"))
