"""A few situations through the whole program; ``benchmarks.rewards`` tries all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.architectures.models import save_model, write_pairs
from benchmarks.rewards import judges, scorers
from benchmarks.rewards.attempts import KINDS
from benchmarks.rewards.case import Lab
from benchmarks.rewards.classifiers import save
from benchmarks.rewards.endpoint import longer, running


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("lab")
    save_model(root / "policy", "llama")
    write_pairs(root / "p.jsonl", chat=False)
    save(root / "rm" / "unpadded", "llama", without=("pad_token",))
    with pytest.MonkeyPatch.context() as patch, running() as url:
        patch.setenv("DPO_BENCH_CACHE", str(root / "cache"))
        yield Lab(root, url)


def test_every_situation_has_a_name_of_its_own() -> None:
    names = [case.name for cases in KINDS.values() for case in cases()]
    assert len(names) == len(set(names)) > 100


def test_an_empty_balance_after_the_controls_stops_the_sweep(lab: Lab) -> None:
    (case,) = (case for case in judges.cases() if case.name == "broke-later")
    outcome = lab.attempt(case)
    assert not outcome.wrong
    assert "Insufficient balance" in outcome.outcome
    assert not list((lab.root / "out" / case.name / "trials").glob("*/manifest.json"))


def test_a_reward_model_without_a_pad_token_is_read_to_its_end(lab: Lab) -> None:
    (case,) = (case for case in scorers.cases() if case.name == "unpadded-ended")
    assert not lab.attempt(case).wrong


def test_a_wrong_outcome_is_called_wrong(lab: Lab) -> None:
    (case,) = (case for case in judges.cases() if case.name == "always-A")
    (said, *_) = case.words
    wished = {**case.__dict__, "rule": longer, "more": None}
    assert "win rate 0.5000, by plain code" in lab.attempt(type(case)(**wished)).wrong
    other = {**case.__dict__, "words": (), "unsaid": (said,), "requests": 1}
    wrong = lab.attempt(type(case)(**other)).wrong
    assert f"{said!r} is said" in wrong
    assert "requests, not 1" in wrong
