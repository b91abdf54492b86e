"""A judge behind transformers' own server."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dpo_bench.errors import DpoBenchError
from dpo_bench.experiment.config import Evaluation
from dpo_bench.rewards.judge import find_judge
from tests.cli.command import dpo_bench, results
from tests.conftest import PAIRS
from tests.tiny import save_tokenizer

SERVE = "from transformers.cli.transformers import main; main()"


def save_one_word_model(folder: Path, word: str) -> None:
    """A real GPT-2 whose last layer norm gives the embedding of one word at every position."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = save_tokenizer(folder, [" ".join(pair.values()) for pair in PAIRS])
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    (token,) = tokenizer(word)["input_ids"]
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=2048,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        embedding = torch.randn(vocabulary, 32, generator=torch.Generator().manual_seed(0))
        embedding /= embedding.norm(dim=1, keepdim=True)
        model.transformer.wte.weight.copy_(embedding)
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(10 * embedding[token])
    model.save_pretrained(folder)


def save_thinking_model(folder: Path, said: list[str]) -> None:
    """A real GPT-2 that says these words one after another once its template has opened a thought.

    Every token's embedding is a direction of its own, which its head turns into the next token's.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    save_tokenizer(folder, [" ".join(pair.values()) for pair in PAIRS])
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(["<think>", "</think>"])  # no special tokens, as in Qwen 3
    opened = "<|im_start|>assistant\n{% endif %}"
    assert opened in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(
        opened, opened.replace("{%", "<think>\n{%")
    )
    tokenizer.save_pretrained(folder)
    size = len(tokenizer)
    chain = [tokenizer(word)["input_ids"] for word in ("\n", *said, "<|im_end|>")]
    assert all(len(ids) == 1 for ids in chain)
    config = GPT2Config(
        vocab_size=size,
        n_embd=size + size % 2,
        n_layer=1,
        n_head=2,
        n_positions=2048,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for weight in (*model.transformer.h.parameters(), *model.transformer.wpe.parameters()):
            weight.zero_()
        model.transformer.wte.weight.copy_(torch.eye(size, config.n_embd))
        model.lm_head.weight.zero_()
        for (now,), (following,) in itertools.pairwise(chain):
            model.lm_head.weight[following, now] = 10.0
    model.save_pretrained(folder)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str]]:
    """Base URL and model of a running `transformers serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", SERVE, "serve", str(folder)),
            *("--host", "127.0.0.1", "--port", str(port), "--device", "cpu"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    raise AssertionError(process.communicate()[0]) from None
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server of a model that says one word."""
    folder = tmp_path_factory.mktemp("served") / "model"
    folder.mkdir()
    save_one_word_model(folder, "A")
    with serving(folder) as address:
        yield address


@pytest.mark.slow
def test_a_model_that_thinks_behind_transformers_serve_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its template opens the thought, so that its answers only close it."""
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    save_thinking_model(folder, ["T", "B", "</think>", "A"])
    with serving(folder) as (url, model):
        options = Evaluation(judge_base_url=url, judge_key_variable="", judge_max_tokens=16)
        found = find_judge(model, options).compare(["p"], ["yes"], ["no"])
        assert (found.cost.requests, found.cost.failures) == (2, 0)
        assert found.places.tolist() == [1]
        # With less room than its thought takes there is no verdict, and the remedy is named.
        short = Evaluation(judge_base_url=url, judge_key_variable="", judge_max_tokens=2)
        with pytest.raises(DpoBenchError, match="judge_max_tokens"):
            find_judge(model, short).compare(["p"], ["yes"], ["no"])


@pytest.mark.slow
def test_a_model_behind_transformers_serve_judges(
    served: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path))
    url, model = served
    options = Evaluation(
        judge_base_url=url, judge_key_variable="", judge_max_tokens=1, judge_concurrency=2
    )
    found = find_judge(model, options).compare(["p", "q"], ["yes", "no"], ["no", "maybe"])
    # It says A whatever it reads: preferred in one order only, so every pair is a tie.
    assert found.wins.tolist() == [0.5, 0.5]
    assert found.agreed.tolist() == [0, 0]
    assert found.places.tolist() == [1, 1]
    assert (found.cost.requests, found.cost.failures, found.cost.output_tokens) == (4, 0, 4)
    assert found.cost.input_tokens is not None
    assert found.cost.input_tokens > 4 * 100
    again = find_judge(model, options).compare(["p", "q"], ["yes", "no"], ["no", "maybe"])
    assert again.cost.asked == 0


@pytest.mark.slow
def test_a_sweep_judged_through_transformers_serve_is_reported(
    served: tuple[str, str], tmp_path: Path
) -> None:
    url, model = served
    out = tmp_path / "out"
    dpo_bench(
        *("sweep", "quickstart", "--losses", "dpo,ipo", "--beta", "0.1,1"),
        *("--out", out, "--workers", "1"),
        *("--reward", f"judge:{model}", f"--set=evaluation.judge_base_url={url}"),
        *('--set=evaluation.judge_key_variable=""', "--set=evaluation.judge_max_tokens=1"),
        *("--set=training.steps=20", "--set=evaluation.prompts=4"),
        *("--set=evaluation.reference_samples=4", "--set=evaluation.samples_per_prompt=1"),
    )
    table = results(out)
    assert table["status"].tolist() == ["done"] * 4
    # It says A whatever it reads: every comparison is a tie, and the report says why.
    assert (table["win_rate"] == 0.5).all()
    assert (table["judge_consistency"] == 0).all()
    assert (table["judge_failures"] == 0).all()
    assert (table["judge_output_tokens"] == table["judge_requests"]).all()
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "Both orders agreed on 0% of a policy's pairs" in text
    assert "The control 'null response' gave 0.500 where below .5 is right" in text
    assert "First place How often a judge prefers what is shown first. | 1.000" in text
