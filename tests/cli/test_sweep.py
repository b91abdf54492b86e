"""`sweep` on models and data of the user's own, through the real command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.command import QUICK, dpo_bench, dpo_bench_here, results
from tests.conftest import PAIRS, tiny_folder


@pytest.fixture(scope="module")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pairs as chat messages."""
    file = tmp_path_factory.mktemp("chat") / "chat.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": pair["prompt"]}],
            "chosen": [{"role": "assistant", "content": pair["chosen"].strip()}],
            "rejected": [{"role": "assistant", "content": pair["rejected"].strip()}],
        }
        for pair in PAIRS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("kind", "data", "reward", "run"),
    [
        ("gpt2", "plain", "vader", dpo_bench_here),
        ("llama", "chat", "none", dpo_bench_here),
        ("qwen2", "plain", "mine:brevity", dpo_bench),
    ],
)
def test_any_local_model_on_any_pairs(
    kind: str,
    data: str,
    reward: str,
    run: Callable[..., subprocess.CompletedProcess[str]],
    pairs_file: Path,
    chat_file: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def brevity(prompts, responses):\n    return [-len(response) for response in responses]\n"
    )
    model = tiny_folder(tmp_path_factory, kind)
    pairs = {"plain": pairs_file, "chat": chat_file}[data]
    done = run(
        "sweep",
        *("--policy", model, "--preferences", pairs, "--losses", "dpo,ipo", "--beta", "0.1,0.5"),
        *("--reward", reward, "--out", tmp_path / "out", *QUICK),
    )
    table = results(tmp_path / "out")
    assert table["status"].tolist() == ["done"] * 4
    assert table["loss"].tolist() == ["dpo", "dpo", "ipo", "ipo"]
    assert table["beta"].tolist() == [0.1, 0.5, 0.1, 0.5]
    gap = (table["initial_loss"] - table["initial_loss_expected"]).abs()
    assert (gap < 1e-5 * np.maximum(1, table["initial_loss_expected"])).all()
    assert (table["kl"] > 0).all()
    assert table["win_rate"].notna().all() == (reward != "none")
    assert ("No reward was given" in done.stdout) == (reward == "none")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "ipo" in page
    for name in ("report.md", "results.csv", "experiment.json"):
        assert (tmp_path / "out" / name).stat().st_size > 0


def test_a_second_run_computes_nothing_and_a_larger_plan_only_what_is_new(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    base = ("sweep", "--policy", llama_folder, "--preferences", pairs_file, "--losses", "dpo")
    rest = ("--out", tmp_path / "first", *QUICK)
    first = dpo_bench(*base, "--beta", "0.1", *rest)
    assert "1 trials, 1 computed now" in first.stdout
    manifest = next((tmp_path / "first").glob("trials/*/manifest.json"))
    before = manifest.stat().st_mtime_ns, results(tmp_path / "first")
    again = dpo_bench(*base, "--beta", "0.1", *rest)
    assert "1 trials, 0 computed now" in again.stdout
    assert manifest.stat().st_mtime_ns == before[0]
    assert results(tmp_path / "first").equals(before[1])
    larger = dpo_bench_here(*base, "--beta", "0.1,0.5", *rest)
    assert "2 trials, 1 computed now" in larger.stdout
    # Another sweep beside it takes over what it shares, although its folder and name differ.
    neighbor = dpo_bench_here(
        *base, "--beta", "0.5,0.1", "--out", tmp_path / "second", "--set=name=other", *QUICK
    )
    assert "2 trials, 0 computed now" in neighbor.stdout
    assert set(results(tmp_path / "second")["trial"]) == set(results(tmp_path / "first")["trial"])
    assert (
        "every file is as it was written"
        in dpo_bench_here("status", tmp_path / "second", "--verify").stdout
    )


def test_workers_and_batches_change_no_result(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    tables = []
    for name, options in {
        "one": ["--workers", "1"],
        "two": ["--workers", "2", "--set=evaluation.rows_per_batch=3"],
    }.items():
        out = tmp_path / name / "out"  # apart, so that nothing is taken over
        dpo_bench_here(
            *("sweep", "--policy", llama_folder, "--preferences", pairs_file, "--losses", "dpo"),
            *("--beta", "0.1,0.5", "--reward", "vader", "--out", out, *QUICK, *options),
        )
        tables.append(results(out).drop(columns=["train_seconds", "evaluation_seconds"]))
    assert tables[0]["trial"].equals(tables[1]["trial"])
    for column in ("kl", "reward", "win_rate", "margin", "preference_accuracy"):
        assert np.allclose(tables[0][column], tables[1][column], rtol=1e-4, atol=1e-5)


def test_a_plugin_runs_sweeps_and_is_reported_with_no_other_edit(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    plugins = tmp_path / "my losses"
    plugins.mkdir()
    (plugins / "square.py").write_text(
        "from dpo_bench import register\n\n\n"
        '@register("square", paper="mine", normalization="sum", grid=(0.5, 2))\n'
        "def square(logps, beta: float = 1.0):\n"
        '    """Squared distance of the margin from 1/beta."""\n'
        "    return (logps.margin - 1 / beta) ** 2\n"
    )
    dpo_bench(
        *("sweep", "--plugins", plugins, "--losses", "square,dpo", "--beta", "0.5"),
        *("--policy", llama_folder, "--preferences", pairs_file, "--out", tmp_path / "out", *QUICK),
    )
    assert results(tmp_path / "out")["loss"].tolist() == ["square", "dpo"]
    assert "square" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    listing = dpo_bench("losses", "--plugins", plugins, "--json").stdout
    assert "square" in [card["name"] for card in json.loads(listing)]


def test_a_diverging_trial_is_a_row_and_the_others_go_on(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    # They keep the contract when they are checked, and break on a step of eight pairs.
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "bad.py").write_text(
        "from torch.nn.functional import softplus\n\n"
        "from dpo_bench import register\n\n\n"
        '@register("nan", paper="none", normalization="sum", grid=(1,))\n'
        "def nan(logps, beta: float = 1.0):\n"
        '    """Not a number."""\n'
        "    bad = float('nan') if len(logps.margin) == 8 else 1.0\n"
        "    return softplus(-beta * logps.margin) * bad\n\n\n"
        '@register("crash", paper="none", normalization="sum", grid=(1,))\n'
        "def crash(logps, beta: float = 1.0):\n"
        '    """Not a loss."""\n'
        "    if len(logps.margin) == 8:\n"
        "        raise RuntimeError('my <b>mistake</b>')\n"
        "    return softplus(-beta * logps.margin)\n"
    )
    arguments = (
        *("sweep", "--plugins", plugins, "--losses", "nan,crash,dpo", "--beta", "1"),
        *("--policy", llama_folder, "--preferences", pairs_file, "--out", tmp_path / "out", *QUICK),
    )
    done = dpo_bench(*arguments, code=1)
    table = results(tmp_path / "out")
    assert table["status"].tolist() == ["failed", "failed", "done"]
    assert "loss stopped being finite at step 0" in table["error"][0]
    assert table["error"][1] == "RuntimeError: my <b>mistake</b>"
    assert table["kl"].isna().tolist() == [True, True, False]
    assert "mistake" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "mistake" in page
    assert "<b>mistake</b>" not in page
    # A divergence is a result; a crash is tried again.
    assert "3 trials, 1 computed now" in dpo_bench(*arguments, code=1).stdout


def test_train_keeps_a_policy_that_evaluate_can_measure(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    data = ("--preferences", pairs_file, "--reward", "vader", *QUICK)
    dpo_bench_here("train", "dpo", "--policy", llama_folder, *data, "--out", tmp_path / "out")
    (policy,) = (tmp_path / "out").glob("trials/*/policy")
    row = results(tmp_path / "out").iloc[0]
    experiment = tmp_path / "same.toml"
    experiment.write_text(
        f'policy = "{llama_folder}"\npreferences = "{pairs_file}"\n[[losses]]\nname = "dpo"\n'
    )
    done = dpo_bench_here(
        *("evaluate", policy, "--file", experiment, "--reward", "vader", *QUICK),
        *("--out", tmp_path / "evaluated"),
    )
    assert "nats" in done.stdout
    metrics = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())["metrics"]
    for name in ("kl", "reward", "win_rate", "margin"):
        assert metrics[name]["value"] == pytest.approx(row[name], rel=1e-4, abs=1e-6)
