"""Models that also see or hear: their texts are trained, and nothing that no text reaches."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.architectures.checks import Outcome, check
from benchmarks.architectures.models import save_model, write_pairs
from dpo_bench.contract import get_loss
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.experiment.config import LoRA
from dpo_bench.experiment.read import validate
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.files import ModelFolder
from dpo_bench.model.load import load_model, load_tokenizer, skeleton
from dpo_bench.model.lora import with_adapter
from dpo_bench.model.merge import merged_folder
from dpo_bench.model.reach import parameters_of_text, unreached_modules
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.sources import find_sources
from dpo_bench.training.trainer import Trainer
from dpo_bench.training.weights import trained_weights

TOWERS = {
    "qwen2_vl": ["model.visual"],
    "llava": ["model.vision_tower", "model.multi_modal_projector"],
    # Its second layer reads what the tower saw, and nothing else.
    "mllama": [
        "model.vision_model",
        "model.language_model.layers.1",
        "model.multi_modal_projector",
    ],
    "gemma3": ["model.vision_tower", "model.multi_modal_projector"],
    "voxtral": ["model.audio_tower", "model.multi_modal_projector"],
}


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))


def tried(folder: Path, kind: str, *, lora: bool, **more: Any) -> Outcome:
    save_model(folder / "model", kind, **more)
    write_pairs(folder / "pairs.jsonl", chat=True)
    return check(kind, folder / "model", folder / "pairs.jsonl", folder, lora=lora)


def opened(folder: Path, kind: str, **training: Any) -> WorkerContext:
    """A bench for a tiny model of this type, and a policy that was trained for two steps."""
    if not (folder / "model").is_dir():
        save_model(folder / "model", kind)
        write_pairs(folder / "pairs.jsonl", chat=False)
    settings: dict[str, Any] = {
        "name": "seeing",
        "policy": str(folder / "model"),
        "preferences": str(folder / "pairs.jsonl"),
        "training": {
            "steps": 2,
            "pairs_per_step": 4,
            "learning_rate": 1e-2,
            "weight_decay": 0.5,
            "checkpoint_seconds": 0,
            **training,
        },
        "evaluation": {
            "prompts": 2,
            "samples_per_prompt": 1,
            "reference_samples": 4,
            "max_new_tokens": 3,
        },
        "losses": [{"name": "dpo", "beta": 0.1}],
    }
    experiment = validate(settings, "test")
    bench = WorkerContext(experiment, find_sources(experiment))
    bench.reset_policy(0)
    Trainer(
        backend=bench.policy,
        loss=get_loss("dpo").at({"beta": 0.1}),
        pairs=bench.inputs.pairs,
        reference=bench.training_reference,
        settings=experiment.training,
        seed=0,
        checkpoint=folder / "state.pt",
    ).run()
    return bench


@pytest.mark.parametrize(
    ("kind", "lora", "tied"),
    [("qwen2_vl", False, False), ("mllama", False, True), ("llava", True, True)],
)
def test_their_texts_are_exact(tmp_path: Path, kind: str, *, lora: bool, tied: bool) -> None:
    # Prompts of unlike lengths are padded on the left, where Qwen2-VL has positions of three parts.
    outcome = tried(tmp_path, kind, lora=lora, tie_word_embeddings=tied)
    assert outcome.verdict == "right", outcome
    # Mllama alone has so many parameters that slots are the quickest.
    quickest = "continuous" if kind == "mllama" else "batched"
    assert (outcome.log_probs, outcome.sampling) == ("hidden/packed", quickest)


@pytest.mark.parametrize("kind", TOWERS)
def test_what_no_text_reaches_is_frozen(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path, kind)
    with caplog.at_level(logging.INFO):
        model = load_model(tmp_path)

    frozen = {name for name, one in model.named_parameters() if not one.requires_grad}
    towers = tuple(f"{tower}." for tower in TOWERS[kind])
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(towers)}
    assert sorted(unreached_modules(model)) == sorted(TOWERS[kind])
    assert "is trained on texts alone" in caplog.text
    # The truth: what the gradient of a text's log-probs says, of the model as it is.
    model.requires_grad_(requires_grad=True)
    model(input_ids=torch.arange(5, 40)[None]).logits.log_softmax(-1)[..., 7].sum().backward()
    assert frozen == {name for name, one in model.named_parameters() if one.grad is None}


def test_a_model_of_texts_is_trained_whole(llama_folder: Path) -> None:
    model = load_model(llama_folder)
    assert all(one.requires_grad for one in model.parameters())
    assert unreached_modules(model) == []
    assert parameters_of_text(model) == model.num_parameters()


def test_a_tower_neither_decays_nor_lies_in_checkpoints(tmp_path: Path) -> None:
    bench = opened(tmp_path, "mllama")
    before = load_model(tmp_path / "model").state_dict()
    after = bench.policy.model.state_dict()
    towers = tuple(f"{tower}." for tower in TOWERS["mllama"])
    weights = {name for name, _ in bench.policy.model.named_parameters()}
    changed = {name for name in weights if not torch.equal(before[name], after[name])}
    assert changed == {name for name in weights if not name.startswith(towers)}
    assert not [
        name
        for name in trained_weights(bench.policy.model)
        if name in weights and name.startswith(towers)
    ]


@pytest.mark.parametrize("kind", ["qwen2_vl", "mllama", "qwen3_5", "llava"])
def test_what_was_trained_is_a_policy_and_a_reference_again(tmp_path: Path, kind: str) -> None:
    save_model(tmp_path / "model", kind)
    write_pairs(tmp_path / "pairs.jsonl", chat=False)
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"size": 7}', "utf-8")
    bench = opened(tmp_path, kind)
    bench.save_policy(tmp_path / "trial")

    again = load_model(tmp_path / "trial")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected, found = (one(input_ids=ids).logits for one in (bench.policy.model, again))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert json.loads((tmp_path / "trial" / "preprocessor_config.json").read_text()) == {"size": 7}
    assert again.state_dict().keys() == bench.policy.model.state_dict().keys()
    settings = bench.experiment.model_dump(mode="json") | {
        "policy": str(tmp_path / "model"),
        "reference": str(tmp_path / "trial"),
    }
    experiment = validate(settings, "test")
    assert (
        WorkerContext(experiment, find_sources(experiment)).reference.packs == bench.reference.packs
    )


def test_an_adapter_stands_where_texts_go_and_is_merged_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        bench = opened(tmp_path, "llava", lora={"rank": 2})
    assert "no text reaches model.multi_modal_projector, model.vision_tower" in caplog.text or (
        "no text reaches model.vision_tower, model.multi_modal_projector" in caplog.text
    )
    bench.save_policy(tmp_path / "trial")
    saved = load_file(tmp_path / "trial" / "adapter_model.safetensors")
    assert saved
    assert all(".language_model." in name for name in saved)

    merged = merged_folder(
        tmp_path / "trial", ModelFolder(tmp_path / "model", "0" * 64, str(tmp_path / "model"))
    )
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        found, base = (
            load_model(folder)(input_ids=ids).logits for folder in (merged, tmp_path / "model")
        )
        expected = bench.policy.model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - base).abs().max() > 1e-2


def test_numbered_layers_of_a_tower_are_not_taken_for_those_of_the_text(tmp_path: Path) -> None:
    save_model(tmp_path, "qwen3_omni_moe_thinker")
    base = choose_backend(load_model(tmp_path))
    policy = with_adapter(base, LoRA(rank=2), "the base")
    layers = {
        name.partition(".lora_")[0]
        for name, one in policy.model.named_parameters()
        if one.requires_grad
    }
    expected = {
        name
        for name, module in base.model.named_modules()
        if type(module) is torch.nn.Linear and ".language_model." in name
    }
    assert layers == expected


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("blip", r"cannot read a text by itself \(.*pixel_values"),
        ("kosmos-2", r"cannot read a text by itself \(.*pixel_values"),
        ("florence2", r"holds an encoder-decoder \(Florence2ForConditionalGeneration\)"),
        ("pix2struct", "holds an encoder-decoder"),
        ("vision-encoder-decoder", "holds an encoder-decoder"),
    ],
)
def test_what_reads_no_text_alone_is_refused(tmp_path: Path, kind: str, words: str) -> None:
    save_model(tmp_path, kind)
    with pytest.raises(EnvironmentProblem, match=words) as raised:
        load_model(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_model_that_reads_prompts_in_both_directions_is_refused(tmp_path: Path) -> None:
    outcome = tried(tmp_path, "paligemma", lora=False)
    assert "is no causal language model" in outcome.refused


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "gemma3"])
def test_a_skeleton_tells_what_texts_reach(tmp_path: Path, kind: str) -> None:
    save_model(tmp_path, kind)
    model = load_model(tmp_path)
    expected = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert parameters_of_text(skeleton(tmp_path)) == expected < model.num_parameters()


def test_a_chat_template_in_a_file_of_its_own(tmp_path: Path) -> None:
    save_model(tmp_path, "llava")
    template = "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}"
    (tmp_path / "chat_template.jinja").unlink()
    assert load_tokenizer(tmp_path).chat_template is None
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}), "utf-8")
    assert load_tokenizer(tmp_path).chat_template == template
