"""A model and data of the user's own: what is checked, shown and refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import QUICK, dpo_bench_here
from tests.conftest import PAIRS
from tests.tiny import save_model, save_tokenizer

NONE = "--reward=none"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference, a policy tuned from it, one with few positions, one of another vocabulary."""
    folder = tmp_path_factory.mktemp("models")
    texts = [" ".join(pair.values()) for pair in PAIRS]
    for name, kind, options in (
        ("base", "llama", {}),
        ("tuned", "llama", {"seed": 1}),
        ("short", "gpt2", {}),
        ("small", "llama", {}),
    ):
        size = save_tokenizer(folder / name, texts)
        save_model(folder / name, kind, 300 if name == "small" else size, **options)
    other = save_tokenizer(folder / "other", ["altogether other words " * 9])
    save_model(folder / "other", "llama", other)
    return folder


def own(models: Path, pairs_file: Path, policy: str = "base", *more: str) -> list[str]:
    return [f"--policy={models / policy}", f"--preferences={pairs_file}", *QUICK, *more]


def test_an_existing_policy_is_measured_without_a_file(
    models: Path, pairs_file: Path, tmp_path: Path
) -> None:
    done = dpo_bench_here(
        "evaluate",
        models / "tuned",
        f"--reference={models / 'base'}",
        f"--preferences={pairs_file}",
        "--reward=vader",
        f"--out={tmp_path}",
        *QUICK,
    )
    assert "win_rate" in done.stdout
    metrics = json.loads((tmp_path / "evaluation.json").read_text())["metrics"]
    assert metrics["kl"]["value"] > 0.1


def test_a_dry_run_shows_what_the_trainer_sees(models: Path, pairs_file: Path) -> None:
    done = dpo_bench_here(
        "sweep", *own(models, pairs_file), "--losses=dpo", "--losses=ipo", "--dry-run"
    )
    text = " ".join(done.stdout.split())
    for part in (
        "Training pairs: ",
        "Mean tokens: prompt ",
        "held-out prompts",
        "A response ends with '<|im_end|>'.",
        "\u2503",
        "4 steps of 8 pairs",
        "learning rate 0.001",
        "parameters",
        "Time: about",
    ):
        assert part in text, part
    assert text.count("as it is trained on") == 3
    assert text.count("ipo") == 5, "a row for each strength of the repeated flag's loss"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"policy": "nowhere/at/all"}, 2, "no model at nowhere/at/all"),
        ({"policy": "tinny"}, 2, "'tinny' is no model"),
        ({"preferences": "nothere.jsonl"}, 4, "no such file or folder: 'nothere.jsonl'"),
        ({"reward": "vadr"}, 2, "use vader, none, module:function"),
        ({"reward": "no_such_module:f"}, 2, "cannot import no_such_module"),
        ({"set": "data.heldout=nothere.jsonl"}, 4, "no such file or folder: 'nothere.jsonl'"),
        ({"set": "data.chosen_column=better"}, 4, "no column 'better'"),
        ({"set": "training.device=cuda"}, 3, "torch finds no GPU"),
        ({"set": "data.max_response_tokens=2"}, 4, "more than data.max_response_tokens = 2"),
        ({"set": "data.chat_template_kwargs.tokenize=true"}, 2, "tokenize is no variable"),
        ({"policy": "short", "set": "evaluation.max_new_tokens=400"}, 2, "positions for 256"),
        ({"policy": "small"}, 2, "embeds 300 tokens"),
        ({"reference": "other"}, 2, "different vocabularies"),
        ({"losses": "odpo"}, 4, "odpo needs a margin for each pair"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses_in_its_words(
    models: Path, pairs_file: Path, tmp_path: Path, change: dict[str, Any], code: int, words: str
) -> None:
    flags: dict[str, Any] = {
        "policy": "base",
        "preferences": pairs_file,
        "losses": "dpo",
        "reward": "none",
        **change,
    }
    for name in ("policy", "reference"):
        if (models / str(flags.get(name, "-"))).is_dir():
            flags[name] = models / flags[name]
    command = ["sweep", *QUICK, *(f"--{name}={value}" for name, value in flags.items())]
    for more in (["--dry-run"], [f"--out={tmp_path / 'out'}"]):
        done = dpo_bench_here(*command, *more, code=code)
        assert words in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy=a", "--policy=b"], "--policy is given twice"),
        (
            ["--set=training.lr=1"],
            "unknown key training.lr (did you mean 'training.learning_rate'?)",
        ),
        (
            ["--set=learning_rate=1"],
            "unknown key learning_rate (did you mean 'training.learning_rate'?)",
        ),
        (["--set=training.beta=1"], "write it into the loss's own [[losses]] table"),
        (["--losses=dpo ipo"], "separate losses by commas: dpo,ipo"),
        (["--quiet", "--verbose", "--dry-run"], "give one of them"),
        (["--seeds=a"], "--seeds a: give numbers"),
    ],
)
def test_slips_of_the_command_line_are_answered(arguments: list[str], words: str) -> None:
    done = dpo_bench_here("sweep", *arguments, code=2)
    assert words in " ".join(done.stderr.split())


def test_lists_and_texts_may_be_written_as_people_do(models: Path, pairs_file: Path) -> None:
    done = dpo_bench_here(
        "sweep",
        *own(models, pairs_file),
        "--losses=dpo",
        "--beta=.1",
        "--set=training.seeds=0,1",
        "--set=evaluation.reward_label=1",
        "--dry-run",
    )
    assert "2 trials" in done.stdout
