"""`training.lora` through the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.command import QUICK, dpo_bench, dpo_bench_here, results
from tests.cli.test_interruptions import assert_same, checkpoints, running, wait_until

LORA = ("--set=training.lora.rank=4", "--set=training.lora.alpha=8")
WORLD = ("--policy", "world:reviews", "--preferences", "world:reviews")


def test_a_sweep_trains_adapters_and_is_done_once(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [
        *("sweep", "--policy", llama_folder, "--preferences", pairs_file, "--losses", "dpo,ipo"),
        *("--beta", "0.3", "--workers", "1", "--out", out, *QUICK, *LORA),
        "--set=keep_policies=true",
    ]
    first = dpo_bench_here(*arguments)
    assert "2 trials, 2 computed now" in first.stdout
    assert_adapters(out)
    for policy in out.glob("trials/*/policy"):
        assert not (policy / "model.safetensors").exists()
        written = json.loads((policy / "adapter_config.json").read_text())
        assert (written["r"], written["lora_alpha"], written["lora_dropout"]) == (4, 8, 0)
        assert written["base_model_name_or_path"] == str(llama_folder)
    again = dpo_bench_here(*arguments)
    assert "2 trials, 0 computed now" in again.stdout


def assert_adapters(out: Path) -> None:
    table = results(out)
    assert (table["status"] == "done").all()
    gap = (table["initial_loss"] - table["initial_loss_expected"]).abs()
    assert (gap <= 1e-5 * table["initial_loss_expected"].clip(lower=1)).all()
    assert (table["kl"] > 0).all()
    assert "a LoRA adapter of rank 4, alpha 8" in (out / "report.md").read_text("utf-8")


def test_lower_layers_are_computed_once_and_nothing_shows_of_it(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    """Training, evaluation and identities are those of a sweep that computes them in each pass."""
    arguments = [
        *("sweep", "--policy", llama_folder, "--preferences", pairs_file, "--losses", "dpo,kto"),
        *("--beta", "0.3", "--workers", "1", *QUICK, *LORA, "--set=training.lora.layers=top:1"),
    ]
    said = dpo_bench_here(*arguments, "--out", tmp_path / "kept" / "out", "--verbose").stderr
    assert "the lower 1 layers of LlamaForCausalLM are computed once" in said
    none = ("--set=training.lower_layers_gib=0", "--out", tmp_path / "anew" / "out")
    dpo_bench_here(*arguments, *none)
    kept, anew = (results(tmp_path / one / "out") for one in ("kept", "anew"))
    times = ["train_seconds", "evaluation_seconds"]
    pd.testing.assert_frame_equal(kept.drop(columns=times), anew.drop(columns=times))
    assert "of the uppermost decoder layers alone (top:1)" in (
        tmp_path / "kept" / "out" / "report.md"
    ).read_text("utf-8")


@pytest.mark.slow
def test_the_embedded_world_trains_adapters_over_its_reference(tmp_path: Path) -> None:
    arguments = ("sweep", *WORLD, "--losses", "dpo", *QUICK, *LORA, "--out", tmp_path / "out")
    assert "5 trials, 5 computed now" in dpo_bench(*arguments).stdout
    assert_adapters(tmp_path / "out")
    assert "5 trials, 0 computed now" in dpo_bench(*arguments).stdout


def test_without_peft_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # as Python sees a package that is not there
    arguments = ("sweep", *WORLD, "--losses", "dpo", *LORA, "--out", tmp_path / "out")
    message = dpo_bench_here(*arguments, code=3).stderr
    (said,) = [line for line in message.splitlines() if "peft" in line]
    assert said.startswith("dpo-bench: ")
    assert "pip install 'dpo_bench[peft]'" in said


@pytest.mark.slow
def test_full_training_imports_no_peft(llama_folder: Path) -> None:
    """Nor does a dry run of a LoRA sweep."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dpo_bench.model.load import load_model\n"
        "import dpo_bench.sweep.trials, dpo_bench.sweep.context, dpo_bench.report\n"
        f"load_model(Path({str(llama_folder)!r}))\n"
        "sys.argv = ['dpo-bench', 'sweep', '--dry-run', '--set=training.lora.rank=4']\n"
        "from dpo_bench.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "sys.exit('peft' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_evaluate_measures_a_kept_adapter_and_peft_loads_it(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel

    from dpo_bench.model.load import load_model

    data = ("--preferences", pairs_file, "--reward", "vader", *QUICK)
    lora = (*LORA, "--set=training.learning_rate=1e-2")
    dpo_bench("train", "dpo", "--policy", llama_folder, *data, *lora, "--out", tmp_path / "out")
    (policy,) = (tmp_path / "out").glob("trials/*/policy")
    row = results(tmp_path / "out").iloc[0]
    assert row["kl"] > 0.01
    experiment = tmp_path / "same.toml"
    experiment.write_text(
        f'policy = "{llama_folder}"\npreferences = "{pairs_file}"\n[[losses]]\nname = "dpo"\n'
    )
    dpo_bench(
        *("evaluate", policy, "--file", experiment, "--reward", "vader", *QUICK),
        *("--out", tmp_path / "evaluated"),
    )
    metrics = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())["metrics"]
    for name in ("kl", "reward", "win_rate", "margin"):
        assert metrics[name]["value"] == pytest.approx(row[name], rel=1e-3, abs=1e-5)
    ids = torch.tensor([[5, 9, 17]])
    plain: Any = load_model(llama_folder)
    before = plain(input_ids=ids).logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what peft asks a model is deprecated
        adapted: Any = PeftModel.from_pretrained(load_model(llama_folder), policy)
    assert (adapted(input_ids=ids).logits - before).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["all", "top:1"])
def test_a_killed_lora_sweep_goes_on_where_it_was(
    llama_folder: Path, pairs_file: Path, tmp_path: Path, layers: str
) -> None:
    arguments = [
        *("sweep", "--policy", llama_folder, "--preferences", pairs_file, "--losses", "dpo"),
        *("--beta", "0.1", *QUICK, *LORA, "--set=training.steps=400"),
        f"--set=training.lora.layers={layers}",
    ]
    dpo_bench(*arguments, "--out", tmp_path / "whole" / "out")
    often = [*arguments, "--set=training.checkpoint_seconds=0.2"]
    out = tmp_path / "parts" / "out"
    with running(often, out) as process:
        wait_until(lambda: checkpoints(out))
        process.kill()
    dpo_bench(*often, "--out", out)
    assert_same(out, tmp_path / "whole" / "out")
