"""Bad input: one or two lines, the right exit code, nothing lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import QUICK, dpo_bench_here
from tests.conftest import PAIRS
from tests.registry import restored_registry


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Runs the command line in this process; checks exit code and the shape of the message."""
    monkeypatch.chdir(tmp_path)

    def run(code: int, *arguments: str | Path) -> str:
        message = dpo_bench_here(*arguments, code=code).stderr
        assert "Traceback" not in message
        said = [line for line in message.splitlines() if line.startswith("dpo-bench:")]
        assert len(said) == 1, message
        return message

    return run


def sweep(model: Path, pairs: Path, *more: str | Path) -> list[str | Path]:
    return ["sweep", "--policy", model, "--preferences", pairs, "--losses", "dpo", *QUICK, *more]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_wrong_data_is_named_by_file_and_row(
    fails: Any, llama_folder: Path, tmp_path: Path
) -> None:
    renamed = write(tmp_path / "renamed.jsonl", [{"prompt": "a", "good": "b", "bad": "c"}] * 3)
    assert "chosen" in fails(4, *sweep(llama_folder, renamed))

    empty = write(tmp_path / "empty.jsonl", [*PAIRS[:4], {**PAIRS[4], "chosen": "  "}])
    assert "line 5" in fails(4, *sweep(llama_folder, empty))

    same = write(
        tmp_path / "same.jsonl", [*PAIRS[:2], {**PAIRS[4], "chosen": PAIRS[4]["rejected"]}]
    )
    assert "line 3" in fails(4, *sweep(llama_folder, same))

    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(PAIRS[0]) + "\n" + '{"prompt": "x", "cho\n', encoding="utf-8")
    message = fails(4, *sweep(llama_folder, broken))
    assert "broken.jsonl" in message
    assert "line 2" in message

    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text("")
    assert "nothing.jsonl" in fails(4, *sweep(llama_folder, nothing))
    assert "absent.jsonl" in fails(4, *sweep(llama_folder, tmp_path / "absent.jsonl"))


def test_a_prompt_over_the_limit_is_an_error_until_told_otherwise(
    fails: Any, llama_folder: Path, tmp_path: Path
) -> None:
    long = write(tmp_path / "long.jsonl", [*PAIRS[:6], {**PAIRS[6], "prompt": "word " * 200}])
    message = fails(4, *sweep(llama_folder, long, "--set=data.max_prompt_tokens=50"))
    assert "line 7" in message
    assert "max_prompt_tokens" in message


AVERAGED = """
from dpo_bench import register


@register("averaged", paper="none", normalization="sum", grid=(0.1, 1))
def averaged(logps, beta=0.1):
    "Hinge."
    return (1 - beta * logps.margin).relu().mean()
"""
"""The commonest mistake: a mean, as other trainers want it."""


@pytest.mark.parametrize(
    "command",
    [
        ["sweep", "--losses", "dpo,averaged"],
        ["sweep", "--losses", "nll(averaged)", "--dry-run"],
        ["train", "averaged"],
    ],
)
def test_a_plugin_loss_that_averages_is_refused_before_anything_is_made(
    fails: Any, llama_folder: Path, pairs_file: Path, tmp_path: Path, command: list[str]
) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "averaged.py").write_text(AVERAGED, encoding="utf-8")
    data = ["--policy", llama_folder, "--preferences", pairs_file, "--out", tmp_path / "out"]
    with restored_registry():
        message = fails(2, *command, "--plugins", folder, *data)
    assert f"averaged ({folder / 'averaged.py'}:5) breaks the contract:" in message
    assert "- shape: returned shape [] for 7 pairs, not [7]" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def x(:", "SyntaxError"),
        ("raise KeyError('one\\ntwo')", "KeyError: 'one"),
        ("from dpo_bench import register\nregister('x')(len)", "TypeError: register() missing"),
        ("x = 1", "holds no file that registers a loss"),
        (AVERAGED.replace('"averaged"', '"dpo"'), "two losses claim the name 'dpo'"),
        (AVERAGED.replace("grid=", "need=1, grid="), "unexpected keyword argument 'need'"),
        (AVERAGED.replace("grid=", "needs=('margins',), grid="), "unknown need 'margins'"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named_in_a_line(
    fails: Any, tmp_path: Path, text: str, said: str
) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "faulty.py").write_text(text, encoding="utf-8")
    with restored_registry():
        message = fails(2, "sweep", "--dry-run", "--plugins", folder)
    assert said in message
    assert str(folder) in message
    assert len(message.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "--beta=-0.1"], "beta = -0.1 is outside"),
        (["sweep", "--losses", "dppo"], "did you mean 'dpo'"),
        (["sweep", "--set=training.stepz=3"], "unknown key training.stepz"),
        (["sweep", "--workers", "many"], "--workers many"),
        (["sweep", "missing.toml"], "missing.toml"),
        (["sweep", "--policy", "world:novels"], "novels"),
        (["sweep", "--reward", "nowhere:score"], "nowhere"),
        (["losses", "dppo"], "did you mean 'dpo'"),
        (["sweep", "--plugins", "nowhere"], "nowhere does not exist"),
        (["status", "nowhere"], "not a sweep's folder"),
        (["report", "nowhere"], "not a sweep's folder"),
        (["report", "nowhere", "--kl", "1,-2"], "give KLs above 0 in nats"),
        (["report", "nowhere", "--same-within", "0"], "give a difference above 0"),
        (["sweep", "--detect", "0.03"], "go with --dry-run"),
    ],
)
def test_wrong_usage_is_named(fails: Any, arguments: list[str], message: str) -> None:
    assert message in fails(2, *arguments)


def test_what_is_wrong_is_said_before_a_world_is_built(
    fails: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    assert "nowhere" in fails(2, "sweep", "--reward", "nowhere:score")
    assert "nowhere" in fails(2, *sweep(Path("nowhere"), Path("world:reviews")))
    assert "nowhere" in fails(4, *sweep(Path("world:reviews"), Path("nowhere.jsonl")))
    assert not (tmp_path / "cache").exists()


def test_a_missing_model_is_an_error_of_the_machine_or_the_name(
    fails: Any, pairs_file: Path, tmp_path: Path
) -> None:
    assert "absent" in fails(2, *sweep(tmp_path / "absent", pairs_file))


def test_a_folder_of_something_else_is_left_alone(
    fails: Any, llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    message = fails(2, *sweep(llama_folder, pairs_file, "--out", tmp_path / "mine"))
    assert "thesis.tex" in message
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_folder_that_is_a_link_to_itself_is_one_line(
    fails: Any, llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    message = fails(3, *sweep(llama_folder, pairs_file, "--out", tmp_path / "loop"))
    assert "cannot write" in message


def test_a_full_disk_or_a_file_in_the_way_is_the_machines_fault(
    fails: Any, llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    message = fails(3, *sweep(llama_folder, pairs_file, "--out", tmp_path / "file" / "out"))
    assert "cannot write" in message


def test_ray_without_its_package_is_named_with_the_extra(
    fails: Any,
    llama_folder: Path,
    pairs_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what an import finds where it is not installed
    arguments = sweep(llama_folder, pairs_file, "--executor", "ray", "--out", tmp_path / "out")
    assert "pip install 'dpo_bench[ray]'" in fails(3, *arguments)
    assert not (tmp_path / "out").exists()


def test_an_unknown_executor_is_refused_with_the_choices() -> None:
    message = dpo_bench_here("sweep", "--executor", "slurm", code=2).stderr
    assert "'slurm' is not one of 'local', 'ray'" in message
