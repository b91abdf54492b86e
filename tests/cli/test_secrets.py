"""Planted secrets come into no file and no log, whatever goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import QUICK, dpo_bench
from tests.rewards.judge_server import running

SECRET = "canary-4f1b9c77d2e84a06"
VARIABLES = ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place whose environment is full of secrets; files of a sweep and its cache go below it."""
    for name in VARIABLES:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def assert_nowhere(place: Path, *said: str) -> None:
    found = [
        file for file in place.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()
    ]
    assert found == []
    assert not any(SECRET in text for text in said)


def sweep(llama_folder: Path, pairs_file: Path, place: Path) -> list[str]:
    return [
        *("sweep", "--policy", str(llama_folder), "--preferences", str(pairs_file)),
        *("--losses", "dpo", "--beta", "0.1", *QUICK, "--out", str(place / "out"), "--verbose"),
    ]


@pytest.mark.parametrize("model", ["rule", pytest.param("nonsense", marks=pytest.mark.slow)])
def test_a_judges_key_stays_in_the_environment(
    llama_folder: Path, pairs_file: Path, planted: Path, model: str
) -> None:
    with running() as url:
        arguments = [f"--reward=judge:{model}", f"--set=evaluation.judge_base_url={url}"]
        arguments += ["--set=evaluation.judge_retries=0"]
        done = dpo_bench(
            *sweep(llama_folder, pairs_file, planted), *arguments, code=0 if model == "rule" else 1
        )
    assert (planted / "out" / "experiment.json").is_file()
    assert_nowhere(planted, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{SECRET}@127.0.0.1:9/v1",
        f"http://127.0.0.1:9/v1?key={SECRET}",
        f"http://127.0.0.1:9/v1#{SECRET}",
        f"http://127.0.0.1:9/{SECRET}/v1",
    ],
)
def test_an_address_with_a_secret_is_refused_before_anything_is_written(
    llama_folder: Path, pairs_file: Path, planted: Path, address: str
) -> None:
    done = dpo_bench(
        *sweep(llama_folder, pairs_file, planted),
        *("--reward=judge:rule", f"--set=evaluation.judge_base_url={address}"),
        code=2,
    )
    assert not (planted / "out").exists()
    assert_nowhere(planted, done.stdout, done.stderr)


def test_a_key_in_the_place_of_its_variables_name_is_not_shown(
    llama_folder: Path, pairs_file: Path, planted: Path
) -> None:
    done = dpo_bench(
        *sweep(llama_folder, pairs_file, planted),
        *("--reward=judge:rule", f"--set=evaluation.judge_key_variable={SECRET}"),
        code=2,
    )
    assert "the name of an environment variable" in done.stderr
    assert_nowhere(planted, done.stdout, done.stderr)
