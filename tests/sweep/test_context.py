"""What the trials of a sweep share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dpo_bench.contract import get_loss
from dpo_bench.experiment.read import validate
from dpo_bench.model import mapped_weights
from dpo_bench.model.load import load_model
from dpo_bench.storage import cache_root
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.sources import find_sources
from dpo_bench.training.trainer import Trainer
from dpo_bench.training.weights import trained_weights
from tests.conftest import tiny_folder


def open_bench(model: Path, pairs: Path, **changes: Any) -> tuple[WorkerContext, list[str]]:
    """A context for these settings, and the phases of work that it needed."""
    settings: dict[str, Any] = {
        "name": "first",
        "policy": str(model),
        "preferences": str(pairs),
        "training": {"steps": 2},
        "evaluation": {"prompts": 3, "reference_samples": 4, "max_new_tokens": 4},
        "losses": [{"name": "dpo", "beta": 0.1}],
        **changes,
    }
    experiment = validate(settings, "test")
    phases: list[str] = []
    context = WorkerContext(
        experiment, find_sources(experiment), lambda phase, *_: phases.append(phase)
    )
    _ = context.training_reference
    return context, phases


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path))


def entries() -> list[Path]:
    return sorted((cache_root() / "reference-logps").glob("*/logps.npz"))


def test_the_reference_is_computed_once_whatever_is_swept(
    llama_folder: Path, pairs_file: Path
) -> None:
    first, phases = open_bench(llama_folder, pairs_file)
    assert "reference log-probs" in phases
    kept = entries()
    assert len(kept) == 2, "training and held-out pairs"
    assert first.training_reference is not None
    sums = first.training_reference.all_sums
    swept: list[dict[str, Any]] = [
        {"losses": [{"name": "dpo", "beta": [1.0, 3.0]}]},
        {"losses": [{"name": "ipo"}, {"name": "simpo"}]},
        {"training": {"seeds": [1, 2], "steps": 9, "learning_rate": 0.1, "tokens_per_pass": 64}},
        {"name": "elsewhere"},
    ]

    for changes in swept:
        context, phases = open_bench(llama_folder, pairs_file, **changes)

        assert "reference log-probs" not in phases, changes
        assert context.training_reference is not None
        assert torch.equal(context.training_reference.all_sums.chosen, sums.chosen)
    assert entries() == kept


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_trial_over_weights_that_workers_share_has_the_same_bits(
    lora: dict[str, int] | None,
    llama_folder: Path,
    pairs_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two trials of one worker: the second begins where the first did."""
    found = []
    for least in (mapped_weights.LEAST_BYTES, 1):
        monkeypatch.setattr(mapped_weights, "LEAST_BYTES", least)
        training = {"steps": 2, "learning_rate": 1e-2, **({"lora": lora} if lora else {})}
        context, _ = open_bench(llama_folder, pairs_file, training=training)
        for trial in ("first", "second"):
            context.reset_policy(0)
            trainer = Trainer(
                context.policy,
                get_loss("dpo").at({"beta": 0.1}),
                pairs=context.inputs.pairs,
                reference=context.training_reference,
                settings=context.experiment.training,
                seed=0,
                checkpoint=tmp_path / f"{least} {trial}",
            )
            metrics = trainer.run().metrics
            weights = trained_weights(context.policy.model)
            found.append((metrics, {name: one.clone() for name, one in weights.items()}))
    assert len(list(cache_root().glob("mapped-weights/*"))) == 1
    (expected, weights), *others = found
    for metrics, after in others:
        assert metrics.equals(expected)
        assert all(torch.equal(one, after[name]) for name, one in weights.items())


def test_policy_and_reference_go_the_same_way(llama_folder: Path, pairs_file: Path) -> None:
    context, _ = open_bench(llama_folder, pairs_file)
    assert context.policy.name == context.reference.name == "hidden/packed"


def test_a_reference_that_cannot_be_packed_keeps_the_policy_padded(
    llama_folder: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reference = tiny_folder(tmp_path_factory, "bloom")
    context, _ = open_bench(llama_folder, pairs_file, reference=str(reference))
    assert context.policy.name == context.reference.name == "hidden"


def test_lower_layers_are_shared_with_a_reference_of_the_same_weights_alone(
    llama_folder: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    training = {"steps": 2, "lora": {"rank": 2, "layers": "top:1"}}
    same, _ = open_bench(llama_folder, pairs_file, training=training)
    assert same.policy.lower is not None
    assert same.policy.lower is same.reference.lower
    other = tiny_folder(tmp_path_factory, "llama", seed=1)
    context, _ = open_bench(llama_folder, pairs_file, training=training, reference=str(other))
    assert context.policy.lower is not None
    assert context.reference.lower is None
    everywhere, _ = open_bench(llama_folder, pairs_file, training={"steps": 2, "lora": {}})
    assert everywhere.policy.lower is None


def test_lora_takes_the_reference_that_full_training_left_in_the_cache(
    llama_folder: Path, pairs_file: Path
) -> None:
    full, _ = open_bench(llama_folder, pairs_file)
    kept = entries()
    lora, phases = open_bench(llama_folder, pairs_file, training={"steps": 2, "lora": {"rank": 2}})

    assert not {"reference log-probs", "sampling"} & set(phases)
    assert entries() == kept
    assert lora.reference_folder == full.reference_folder
    assert full.training_reference is not None
    assert lora.training_reference is not None
    ours, theirs = lora.training_reference.all_sums, full.training_reference.all_sums
    assert torch.equal(ours.chosen, theirs.chosen)
    frozen = {parameter.data_ptr() for parameter in lora.reference.model.parameters()}
    policy = {parameter.data_ptr() for parameter in lora.policy.model.parameters()}
    assert frozen < policy, "one model in memory"


def test_lora_over_a_policy_that_is_not_the_reference(
    llama_folder: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reference = tiny_folder(tmp_path_factory, "llama", seed=1)
    context, _ = open_bench(
        llama_folder, pairs_file, reference=str(reference), training={"lora": {}, "steps": 2}
    )
    context.reset_policy(0)
    policy, own = context.policy.model.state_dict(), load_model(llama_folder).state_dict()
    plain = {name.replace(".base_layer", ""): value for name, value in policy.items()}
    assert all(torch.equal(plain[name], value) for name, value in own.items())


def test_a_policy_is_saved_as_others_expect_it_and_goes_on_training(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    """With its cache of keys on, its tokenizer, and the processor that came with it."""
    source = Path(shutil.copytree(llama_folder, tmp_path / "source"))
    (source / "preprocessor_config.json").write_text('{"size": 7}')
    context, _ = open_bench(source, pairs_file)
    with torch.no_grad():
        for parameter in context.policy.model.parameters():
            parameter.mul_(1.5)
    context.save_policy(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["use_cache"] is True
    assert context.policy.model.config.use_cache is False
    assert (tmp_path / "saved" / "preprocessor_config.json").read_text() == '{"size": 7}'
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").state_dict()
    for name, value in context.policy.model.state_dict().items():
        assert torch.equal(saved[name], value), name
    text = "Question 1: is tea good?"
    expected = AutoTokenizer.from_pretrained(source)(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(text)["input_ids"] == expected


def test_in_bf16_a_policy_is_put_back_and_saved_in_fp32(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    """The weights of this model are not to be had in bf16."""
    context, _ = open_bench(llama_folder, pairs_file, training={"steps": 2, "precision": "bf16"})
    own = load_model(llama_folder).state_dict()
    for _ in range(2):
        context.reset_policy(0)
        context.save_policy(tmp_path / "saved")
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="float32")
        for name, value in saved.state_dict().items():
            assert torch.equal(value, own[name]), name
            working = context.policy.model.state_dict()[name]
            assert torch.equal(working, value.bfloat16()), name
        for master in context.policy.optimized().values():
            master.data.add_(0.1)  # as if it had been trained
    assert {one.dtype for one in context.reference.model.parameters()} == {torch.bfloat16}


def test_what_the_trials_are_given_is_said(
    llama_folder: Path, pairs_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="dpo_bench"):
        open_bench(llama_folder, pairs_file)
    said = [record.message for record in caplog.records]
    assert any(line.startswith("Training pairs: ") for line in said)
    assert any(line.startswith("Evaluation: 3 held-out prompts") for line in said)


def test_without_resampling_every_seed_has_the_pairs_themselves(
    llama_folder: Path, pairs_file: Path
) -> None:
    context, _ = open_bench(llama_folder, pairs_file)
    for seed in (0, 1):
        pairs, reference = context.training_set(seed)
        assert pairs is context.inputs.pairs
        assert reference is context.training_reference


def test_a_seed_draws_the_same_pairs_for_every_loss_and_no_held_out_one(
    llama_folder: Path, pairs_file: Path
) -> None:
    drawing = {"training": {"steps": 2, "resample": "bootstrap"}}
    context, _ = open_bench(llama_folder, pairs_file, **drawing)
    other, _ = open_bench(llama_folder, pairs_file, **drawing, losses=[{"name": "simpo"}])
    plain, _ = open_bench(llama_folder, pairs_file)
    digests = {seed: context.training_set(seed)[0].digest for seed in (0, 1, 0, 2)}
    assert len(set(digests.values())) == 3
    for seed, digest in digests.items():
        assert other.training_set(seed)[0].digest == digest
    assert other.training_set(0)[1] is None, "simpo reads no reference"
    whole = {
        tuple(map(bytes, plain.inputs.pairs.pair(at))) for at in range(len(plain.inputs.pairs))
    }
    drawn = context.training_set(1)[0]
    assert len(drawn) == len(plain.inputs.pairs)
    assert {tuple(map(bytes, drawn.pair(at))) for at in range(len(drawn))} <= whole
    assert context.inputs.prompts.pairs.digest == plain.inputs.prompts.pairs.digest
    assert context.reference_folder == plain.reference_folder


def test_drawn_pairs_need_no_further_pass_of_the_reference(
    llama_folder: Path, pairs_file: Path
) -> None:
    context, _ = open_bench(
        llama_folder, pairs_file, training={"steps": 2, "resample": "bootstrap"}
    )
    kept = entries()
    pairs, reference = context.training_set(3)
    assert reference is not None
    assert len(reference.all_sums.chosen) == len(pairs)
    assert entries() == kept
