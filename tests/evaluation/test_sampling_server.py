"""Responses from a server: real HTTP, a real model, transformers' own sampling."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from dpo_bench.errors import ConfigurationError, EnvironmentProblem
from dpo_bench.evaluation import sampling_server
from dpo_bench.evaluation.engines import builtin, find_engine
from dpo_bench.evaluation.sampling_server import ServerSampler
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.config import Evaluation, LoRA
from dpo_bench.experiment.identity import conditions
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.logprobs import score, sum_by_row
from dpo_bench.model.lora import with_adapter
from dpo_bench.model.sampling import Response, SamplingPlan
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.sources import find_sources
from tests.evaluation.completions_server import Server, serving
from tests.model.architectures import tiny_model
from tests.rewards.test_serve import save_one_word_model
from tests.rewards.test_serve import serving as running_transformers_serve

PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14]]
PLAN = SamplingPlan(
    samples=2,
    max_new_tokens=6,
    temperature=1.0,
    end_tokens=frozenset({3, 4}),
    seed=0,
    stream="policy",
    rows_per_batch=512,
)


@pytest.fixture(autouse=True)
def folder_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sampling_server, "WAIT", 0.0)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", torch.float32)


@pytest.fixture
def server(model: Any) -> Iterator[Server]:
    with serving(copy.deepcopy(model)) as one:
        yield one


@pytest.fixture
def backend(model: Any) -> LogprobBackend:
    return choose_backend(model)


def adapted(backend: LogprobBackend, size: float = 0.5) -> LogprobBackend:
    policy = with_adapter(backend, LoRA(rank=2), "the base")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return policy


def test_ids_go_there_and_come_back(server: Server, backend: LogprobBackend) -> None:
    found = ServerSampler(server.url)(backend, PROMPTS, PLAN)
    assert [(one.prompt_id, one.sample) for one in found] == [
        (p, s) for p in range(3) for s in (0, 1)
    ]
    sent = [body for path, body in server.requests if path.endswith("completions")]
    assert sorted(body["prompt"] for body in sent) == sorted(2 * PROMPTS)
    assert len({body["seed"] for body in sent}) == len(sent)
    assert {(body["top_p"], body["top_k"], body["repetition_penalty"]) for body in sent} == {
        (1.0, -1, 1.0)
    }
    for one in found:
        assert one.finished == (one.tokens[-1] in PLAN.end_tokens)
        assert one.finished or len(one.tokens) == PLAN.max_new_tokens
    assert found == ServerSampler(server.url)(backend, PROMPTS, PLAN), "its seeds are the plan's"
    other = dataclasses.replace(PLAN, stream="opponents")
    assert found != ServerSampler(server.url)(backend, PROMPTS, other)


def test_a_part_of_the_samples_is_the_same_as_among_all(
    server: Server, backend: LogprobBackend
) -> None:
    whole = ServerSampler(server.url)(backend, PROMPTS, dataclasses.replace(PLAN, samples=4))
    plan = dataclasses.replace(PLAN, samples=4, part=range(2, 4))
    assert ServerSampler(server.url)(backend, PROMPTS, plan) == [
        one for one in whole if one.sample >= 2
    ]


def test_an_end_token_that_a_server_leaves_out_is_put_back(
    server: Server, backend: LogprobBackend
) -> None:
    expected = ServerSampler(server.url)(backend, PROMPTS, PLAN)
    server.keeps_end = False
    assert any(one.finished for one in expected)
    assert ServerSampler(server.url)(backend, PROMPTS, PLAN) == expected


def test_frequencies_are_those_of_the_model() -> None:
    model = tiny_model("llama", torch.float32, vocab_size=3)
    backend = choose_backend(model)
    plan = dataclasses.replace(PLAN, samples=600, max_new_tokens=1, end_tokens=frozenset({1}))
    with serving(model) as server:
        found = ServerSampler(server.url)(backend, [[0, 2]], plan)
    observed = np.bincount([one.tokens[0] for one in found], minlength=3)
    with torch.no_grad():
        expected = model(torch.tensor([[0, 2]])).logits[0, -1].double().softmax(-1).numpy() * 600
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def mean_kl(policy: Any, reference: Any, found: list[Response]) -> tuple[float, float]:
    batch = reference.response_batch(
        [PROMPTS[one.prompt_id] for one in found], [one.tokens for one in found]
    )
    kl = sum_by_row(score(policy, reference, batch).kl, batch.lengths).double().numpy()
    return float(kl.mean()), float(kl.std(ddof=1) / np.sqrt(len(kl)))


def test_the_kl_of_an_adapter_is_that_of_the_builtin_sampler(
    server: Server, backend: LogprobBackend, tmp_path: Path
) -> None:
    policy = adapted(backend, 0.3)
    plan = dataclasses.replace(PLAN, samples=100)
    ours, error = mean_kl(policy, backend, builtin(policy, PROMPTS, plan))
    theirs, its_error = mean_kl(policy, backend, ServerSampler(server.url)(policy, PROMPTS, plan))
    assert ours > 5 * error
    assert abs(ours - theirs) < 3 * np.hypot(error, its_error)
    assert list(server.models) == ["served"], "the adapter is taken away again"
    assert not list((tmp_path / "cache" / "served-adapters").iterdir())


def test_other_weights_are_seen(server: Server, backend: LogprobBackend) -> None:
    with torch.no_grad():
        for weight in server.models["served"].parameters():
            weight.mul_(1.3)
    with pytest.raises(EnvironmentProblem, match="holds other weights"):
        ServerSampler(server.url)(backend, PROMPTS, PLAN)


def test_a_server_without_token_ids_is_refused(server: Server, backend: LogprobBackend) -> None:
    server.gives_ids = False
    with pytest.raises(EnvironmentProblem, match=r"token ids .* text that is tokenized again"):
        ServerSampler(server.url)(backend, PROMPTS, PLAN)


def test_a_busy_server_is_asked_again(server: Server, backend: LogprobBackend) -> None:
    expected = ServerSampler(server.url)(backend, PROMPTS, PLAN)
    server.failures = 2
    assert ServerSampler(server.url)(backend, PROMPTS, PLAN) == expected
    server.failures = 1000
    with pytest.raises(EnvironmentProblem, match="says 503: busy"):
        ServerSampler(server.url)(backend, PROMPTS, PLAN)


def test_no_server_is_said_in_a_line(backend: LogprobBackend) -> None:
    with pytest.raises(EnvironmentProblem, match=r"127.0.0.1:1/v1/models does not answer"):
        ServerSampler("http://127.0.0.1:1/v1")(backend, PROMPTS, PLAN)


@pytest.mark.slow
def test_transformers_serve_takes_no_token_ids(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_one_word_model(tmp_path / "model", "A")
    factory: Any = AutoModelForCausalLM
    backend = choose_backend(factory.from_pretrained(tmp_path / "model").eval())
    with (
        running_transformers_serve(tmp_path / "model") as (url, _),
        pytest.raises(EnvironmentProblem, match="with token ids in and out"),
    ):
        ServerSampler(url)(backend, PROMPTS, PLAN)


def test_a_server_that_takes_no_adapters_is_told_how(
    server: Server, backend: LogprobBackend
) -> None:
    server.takes_adapters = False
    with pytest.raises(EnvironmentProblem, match=r"says 404: .*--enable-lora"):
        ServerSampler(server.url)(adapted(backend), PROMPTS, PLAN)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://me:secret@host/v1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no http\(s\) address|no credentials"):
        ServerSampler(url)


def experiment(
    sampler: str, policy: str = "model", pairs: str = "pairs", **more: Any
) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "engines",
            "policy": policy,
            "preferences": pairs,
            "training": {"lora": {"rank": 2}},
            "evaluation": {
                "sampler": sampler,
                "reward": "vader",
                "prompts": 4,
                "max_new_tokens": 6,
                "reference_samples": 4,
                "resamples": 100,
            },
            "losses": [{"name": "dpo", "beta": 0.1}],
            **more,
        }
    )


def test_the_sampler_is_a_condition_and_its_address_is_not() -> None:
    content: Any = find_sources(experiment("builtin", "world:reviews", "world:reviews")).content
    first, second, own = (
        conditions(experiment(name), content)
        for name in ("openai:http://a/v1", "openai:http://b/v1", "builtin")
    )
    assert first == second != own
    assert "sampler" not in str(own)


def test_what_cannot_be_is_refused_with_the_file() -> None:
    with pytest.raises(ValidationError, match="only as an adapter"):
        experiment("openai:http://host/v1", training={})
    with pytest.raises(ValidationError, match="openai:URL"):
        Evaluation.model_validate({"sampler": "openai"})
    with pytest.raises(ValidationError, match="'builtin' or 'openai'"):
        Evaluation.model_validate({"sampler": "vllm"})
    assert find_engine(Evaluation()) is builtin


def test_reference_and_policy_are_evaluated_through_a_server(
    llama_folder: Path, pairs_file: Path
) -> None:
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    with serving(factory.from_pretrained(llama_folder).eval()) as server:
        asked = experiment(f"openai:{server.url}", str(llama_folder), str(pairs_file))
        context = WorkerContext(asked, find_sources(asked))
        context.reset_policy(0)
        found = context.evaluator.evaluate(context.policy)
        assert context.evaluator.estimate_kl(context.policy, 3)[0] == pytest.approx(0, abs=1e-6)
    assert found.metrics["kl"].value == pytest.approx(0, abs=1e-6), "an adapter at its start"
    assert len([path for path, _ in server.requests if path.endswith("/load_lora_adapter")]) == 2
    assert context.computing["sampling"] == "openai"
