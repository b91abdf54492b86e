"""Sampling with the same random numbers for every policy."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dpo_bench.model import sampling
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.growing_rows import growing_rows
from dpo_bench.model.logprob_backends import LogprobBackend, Sampler
from dpo_bench.model.sampling import (
    Response,
    SamplingPlan,
    draw,
    sample_responses,
    uniforms,
)
from dpo_bench.model.slot_rows import SlotRows
from tests.model.architectures import tiny_model

choose_backend_module = sys.modules[choose_backend.__module__]

PLAN = SamplingPlan(
    samples=3,
    max_new_tokens=12,
    temperature=1.0,
    end_tokens=frozenset({2}),
    seed=0,
    stream="policy",
    rows_per_batch=512,
)
PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16], [8, 8]]


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(llama_folder).eval()


def run(model: Any, plan: SamplingPlan = PLAN, prompts: Any = PROMPTS) -> Any:
    return sample_responses(choose_backend(model), prompts, plan)


def test_samples_follow_the_models_distribution(model: Any) -> None:
    plan = dataclasses.replace(PLAN, samples=4000, max_new_tokens=1, rows_per_batch=2000)
    prompt = [5, 6, 7]
    counts = np.bincount(
        [response.tokens[0] for response in run(model, plan, [prompt])],
        minlength=model.config.vocab_size,
    )
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1).numpy() * 4000
    # Ten groups of tokens, so that each is expected often enough for the test to hold.
    group = np.arange(len(counts)) % 10
    observed = np.bincount(group, counts)
    wanted = np.bincount(group, expected)
    assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_each_token_is_the_one_its_number_picks(model: Any) -> None:
    """Without cache, padding or batches: the plainest sampler there is."""
    numbers = uniforms(PLAN, len(PROMPTS))
    for response in run(model):
        context = list(PROMPTS[response.prompt_id])
        for step, token in enumerate(response.tokens):
            with torch.no_grad():
                logits = model(torch.tensor([context])).logits[0, -1:]
            number = torch.tensor([numbers[response.prompt_id, response.sample, step]])
            assert draw(logits, number).item() == token
            context.append(token)


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_the_batch_size_changes_nothing(model: Any, rows: int) -> None:
    assert run(model, dataclasses.replace(PLAN, rows_per_batch=rows)) == run(model)


ENDING = dataclasses.replace(PLAN, samples=9, end_tokens=frozenset(range(0, 400, 9)))
"""A plan under which responses end at all times."""


def by(way: Sampler, backend: LogprobBackend, plan: SamplingPlan = ENDING) -> list[Response]:
    backend = copy.copy(backend)
    backend.sampler = way
    return sample_responses(backend, PROMPTS, plan)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "opt", "cohere", "granite"])
def test_slots_give_the_same_tokens_with_any_number_of_rows(architecture: str) -> None:
    backend = choose_backend(tiny_model(architecture, torch.float32))
    plan = dataclasses.replace(ENDING, end_tokens=frozenset(range(0, 61, 9)))
    expected = by("uncached", backend, plan)
    assert len({len(response.tokens) for response in expected}) > 3
    for rows in (1, 3, 7, 512):
        found = by("continuous", backend, dataclasses.replace(plan, rows_per_batch=rows))
        assert found == expected, rows


def test_slots_give_the_same_tokens_when_ended_rows_are_seen_late(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where rows go on for up to so many tokens behind their ends."""
    backend = choose_backend(model)
    expected = by("batched", backend)
    monkeypatch.setattr(sampling, "LOOK_EVERY", {"cpu": 16})
    for rows in (3, 512):
        plan = dataclasses.replace(ENDING, rows_per_batch=rows)
        assert by("continuous", backend, plan) == expected


def test_a_prompt_is_read_once_for_all_of_its_responses(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole = SlotRows.read

    def counted(self: SlotRows, prompts: Any) -> Any:
        read.extend(map(len, prompts))
        return whole(self, prompts)

    monkeypatch.setattr(SlotRows, "read", counted)
    by("continuous", choose_backend(model), dataclasses.replace(ENDING, rows_per_batch=2))
    assert sorted(read) == sorted(map(len, PROMPTS))


def test_only_some_prompts_get_the_responses_that_they_get_among_all(model: Any) -> None:
    backend = choose_backend(model)
    backend.sampler = "continuous"
    some = sample_responses(backend, PROMPTS, ENDING, only=[2, 0])
    assert some == [one for one in by("batched", backend) if one.prompt_id in {0, 2}]
    assert sample_responses(backend, PROMPTS, ENDING, only=[]) == []


@pytest.mark.parametrize(
    ("architecture", "sampler"), [("llama", "continuous"), ("gpt2", "continuous")]
)
def test_models_that_are_not_tiny_are_sampled_in_slots(
    architecture: str, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(architecture)
    assert choose_backend(model).sampler == "batched"
    monkeypatch.setattr(choose_backend_module, "TINY", 0)
    assert choose_backend(model).sampler == sampler


@pytest.mark.parametrize("architecture", ["bloom", "gemma2", "mamba"])
def test_attention_of_another_kind_is_seen(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_backend_module, "TINY", 0)
    assert choose_backend(tiny_model(architecture)).sampler in {"batched", "equal"}


def test_a_window_shorter_than_the_texts_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_backend_module, "TINY", 0)
    model = tiny_model("mistral", sliding_window=32)
    assert choose_backend(model, longest=33).sampler != "continuous"
    assert choose_backend(model, longest=32).sampler == "continuous"


def test_a_response_ends_with_an_end_token_or_at_the_limit(model: Any) -> None:
    likely_end = dataclasses.replace(PLAN, samples=40, end_tokens=frozenset(range(0, 400, 10)))
    responses = run(model, likely_end)
    assert {response.finished for response in responses} == {True, False}
    for response in responses:
        inside = [token for token in response.tokens[:-1] if token in likely_end.end_tokens]
        assert inside == []
        assert response.finished == (response.tokens[-1] in likely_end.end_tokens)
        assert response.finished or len(response.tokens) == likely_end.max_new_tokens


def test_streams_and_seeds_are_independent(model: Any) -> None:
    base = uniforms(PLAN, 50).ravel()
    for other in (
        dataclasses.replace(PLAN, stream="opponents"),
        dataclasses.replace(PLAN, seed=1),
    ):
        assert abs(np.corrcoef(base, uniforms(other, 50).ravel())[0, 1]) < 0.1
    assert run(model) == run(model)


def test_a_low_temperature_takes_the_likeliest_token(model: Any) -> None:
    cold = dataclasses.replace(PLAN, temperature=1e-4, max_new_tokens=1)
    for response in run(model, cold):
        with torch.no_grad():
            logits = model(torch.tensor([PROMPTS[response.prompt_id]])).logits[0, -1]
        assert response.tokens == (int(logits.argmax()),)


def test_numbers_at_the_ends_pick_tokens_with_probability() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]])
    assert draw(logits, torch.tensor([0.0], dtype=torch.float64)).item() == 0
    almost_one = torch.tensor([np.nextafter(1.0, 0.0)])
    assert draw(logits, almost_one).item() == 2


def test_in_bf16_tokens_are_drawn_from_the_logits_that_score_them(model: Any) -> None:
    """The head works in fp32: its logits are no bf16 numbers, and those of a scored text."""
    backend = choose_backend(model, "bf16")
    prompt = [5, 6, 7, 11]
    with torch.inference_mode():
        drawn_from = backend.logits(growing_rows(backend, [prompt], "batched").states())
        scored = backend.logits(backend.states(backend.response_batch([prompt], [[9]])))
        with backend.autocast():
            whole = model(input_ids=torch.tensor([prompt])).logits[:, -1].float()
    assert drawn_from.dtype == torch.float32
    assert not torch.equal(drawn_from, drawn_from.bfloat16().float())
    assert torch.equal(whole, whole.bfloat16().float()), "the model by itself rounds them"
    rounding = (whole - scored).abs().max()
    assert (drawn_from - scored).abs().max() < rounding
