"""A loaded model is the user's own, whole, in fp32, without dropout and without noise."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.architectures.models import configuration, save_tokenizer
from dpo_bench.errors import ConfigurationError, EnvironmentProblem
from dpo_bench.model.files import ModelFolder
from dpo_bench.model.load import device_of, load_model, load_tokenizer, precision_of, skeleton
from tests.model.architectures import tiny_model


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return shutil.copytree(llama_folder, tmp_path / "model")


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a folder's config.json."""
    file = folder / "config.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_it_gives_the_saved_weights_in_fp32_and_eval_mode(llama_folder: Path) -> None:
    model = load_model(ModelFolder(llama_folder, "0" * 64, "tiny"))

    saved = load_file(llama_folder / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in saved.items())
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.config.use_cache is False
    assert all(value.requires_grad for value in model.parameters())


def test_weights_saved_in_bf16_become_fp32_of_the_same_value(folder: Path) -> None:
    file = folder / "model.safetensors"
    halves = {name: value.bfloat16() for name, value in load_file(file).items()}
    save_file(halves, file, metadata={"format": "pt"})
    edit(folder, lambda config: config.update(dtype="bfloat16"))

    model = load_model(folder)

    for name, value in halves.items():
        found = model.state_dict()[name]
        assert found.dtype == torch.float32
        assert torch.equal(found, value.float())


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "gemma2"])
def test_training_mode_draws_no_random_numbers(architecture: str, tmp_path: Path) -> None:
    dropout = {"gpt2": "resid_pdrop", "opt": "dropout", "gemma2": "attention_dropout"}
    model = tiny_model(architecture, torch.float32)
    model.save_pretrained(tmp_path)
    shutil.copy(Path(__file__), tmp_path / "tokenizer.json")  # only has to be there
    edit(tmp_path, lambda config: config.update({dropout[architecture]: 0.5}))
    ids = torch.arange(12)[None]

    loaded = load_model(tmp_path)

    evaluated = loaded(input_ids=ids).logits
    assert torch.equal(loaded.train()(input_ids=ids).logits, evaluated)


@pytest.mark.parametrize(("architecture", "attention"), [("gpt2", "sdpa"), ("gemma2", "eager")])
def test_attention_is_sdpa_where_the_architecture_has_it(
    architecture: str, attention: str, tmp_path: Path
) -> None:
    tiny_model(architecture, torch.float32).save_pretrained(tmp_path)
    shutil.copy(Path(__file__), tmp_path / "tokenizer.json")  # only has to be there
    edit(tmp_path, lambda config: config.update(attn_implementation="flash_attention_2"))

    assert load_model(tmp_path).config._attn_implementation == attention


def test_pickled_weights_are_read_without_running_them(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    model = load_model(folder)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({**weights, "evil": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(EnvironmentProblem, match="cannot be loaded"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_an_error(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})

    with pytest.raises(EnvironmentProblem, match=r"lacks 1 of the weights .*layers.1.mlp.up_proj"):
        load_model(folder)


def test_weights_of_another_shape_are_an_error(folder: Path) -> None:
    edit(folder, lambda config: config.update(intermediate_size=48))

    with pytest.raises(EnvironmentProblem, match=str(folder)):
        load_model(folder)


def test_weights_that_are_not_used_are_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), "score.weight": torch.ones(2)}, file, metadata={"format": "pt"})

    load_model(folder)

    assert "1 of its weights are not used by LlamaForCausalLM, such as score.weight" in caplog.text


def test_a_damaged_weight_file_is_an_error(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(EnvironmentProblem, match="cannot be loaded: SafetensorError"):
        load_model(folder)


def test_quantized_weights_are_refused(folder: Path) -> None:
    edit(folder, lambda config: config.update(quantization_config={"quant_method": "gptq"}))

    with pytest.raises(EnvironmentProblem, match=r"quantized weights \(gptq\)"):
        load_model(folder)


@pytest.mark.parametrize("kind", ["vit", "made-up"])
def test_another_kind_of_model_is_refused(kind: str, folder: Path) -> None:
    edit(folder, lambda config: config.update(model_type=kind))

    with pytest.raises(EnvironmentProblem, match=f"no causal language model .* model_type {kind}"):
        load_model(folder)


def test_code_of_its_own_needs_consent(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('ran')")
    auto = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    edit(folder, lambda config: config.update(model_type="own", auto_map=auto))

    with pytest.raises(ConfigurationError, match="trust_remote_code"):
        load_model(folder)


def test_the_tokenizer_comes_with_its_chat_template(llama_folder: Path) -> None:
    tokenizer = load_tokenizer(llama_folder)

    text = tokenizer.apply_chat_template([{"role": "user", "content": "tea"}], tokenize=False)
    assert text == "<|im_start|>user\ntea<|im_end|>\n"
    assert tokenizer.decode(tokenizer("is tea good?").input_ids) == "is tea good?"


def test_a_tokenizer_saved_again_is_the_same(llama_folder: Path, tmp_path: Path) -> None:
    load_tokenizer(llama_folder).save_pretrained(tmp_path)

    assert "local_files_only" not in (tmp_path / "tokenizer_config.json").read_text()
    name = "tokenizer.json"
    assert (tmp_path / name).read_text() == (llama_folder / name).read_text()


def test_a_damaged_tokenizer_is_an_error(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")

    with pytest.raises(EnvironmentProblem, match="cannot be loaded"):
        load_tokenizer(folder)


def test_loading_prints_nothing(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), "lm_head.extra": torch.ones(2)}, file, metadata={"format": "pt"})
    code = (
        "import logging; from pathlib import Path\n"
        "logging.getLogger('dpo_bench').setLevel(logging.ERROR)\n"
        "from dpo_bench.model.load import load_model, load_tokenizer\n"
        f"folder = Path({str(folder)!r}); load_model(folder); load_tokenizer(folder)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("", "")


def test_transformers_own_voice_comes_back(llama_folder: Path) -> None:
    from transformers.utils import logging as its_logging

    before = its_logging.get_verbosity(), its_logging.is_progress_bar_enabled()

    load_model(llama_folder)

    assert (its_logging.get_verbosity(), its_logging.is_progress_bar_enabled()) == before
    assert before[0] < logging.ERROR, "else this test would see no difference"


@pytest.mark.parametrize(
    ("kind", "build", "words"),
    [
        ("bart", "AutoModelForSeq2SeqLM", r"an encoder-decoder \(BartForConditionalGeneration\)"),
        ("pegasus", "AutoModelForSeq2SeqLM", "an encoder-decoder"),
        ("bert", "AutoModelForMaskedLM", r"a masked language model \(BertForMaskedLM\)"),
        ("gpt2", "AutoModelForSequenceClassification", "a classifier"),
    ],
)
def test_what_is_no_decoder_is_called_what_it_is(
    tmp_path: Path, kind: str, build: str, words: str
) -> None:
    made: Any = getattr(transformers, build)
    save_tokenizer(tmp_path)
    made.from_config(configuration(kind, 400, is_decoder=False)).save_pretrained(tmp_path)
    for way in (load_model, skeleton):
        with pytest.raises(EnvironmentProblem, match=f"holds {words}"):
            way(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_devices_and_precisions_without_a_gpu() -> None:
    assert device_of("auto") == device_of("cpu") == "cpu"
    with pytest.raises(EnvironmentProblem, match="no GPU"):
        device_of("cuda")
    assert precision_of("auto", "cpu") == "fp32"
    assert precision_of("bf16", "cpu") == "bf16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_and_precisions_with_a_gpu(llama_folder: Path) -> None:
    assert device_of("auto") == device_of("cuda") == "cuda"
    assert device_of("cpu") == "cpu"
    assert precision_of("fp32", "cuda") == "fp32"
    assert load_model(llama_folder, "cuda").device.type == "cuda"
