"""Fixtures that several rooms share: a cache of the tests' own, and real tiny models and data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_model, save_tokenizer

PAIRS = [
    {
        "prompt": f"Question {index}: is {word} good?\nAnswer:",
        "chosen": f" Yes, {word} is really good and lovely.",
        "rejected": f" No, {word} is bad.",
    }
    for index, word in enumerate(
        ["tea", "rain", "jazz", "bread", "snow", "chess", "rice", "wind"] * 5, start=1
    )
]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the whole test run, also when several processes share the run."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    before = os.environ.get("DPO_BENCH_CACHE")
    os.environ["DPO_BENCH_CACHE"] = str(shared / "dpo-bench-cache")
    yield
    if before is None:
        del os.environ["DPO_BENCH_CACHE"]
    else:
        os.environ["DPO_BENCH_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models are fastest, and runs repeat bit by bit, on one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty plain preference pairs as JSON lines."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a BPE tokenizer, as transformers saves it."""
    return tiny_folder(tmp_path_factory, "llama")


def tiny_folder(factory: pytest.TempPathFactory, kind: str, **options: Any) -> Path:
    """A folder with a tiny model of some architecture and a tokenizer."""
    folder = factory.mktemp(kind)
    vocabulary = save_tokenizer(folder, [" ".join(pair.values()) for pair in PAIRS])
    save_model(folder, kind, vocabulary, **options)
    return folder
