"""Endpoints that misbehave, over real sockets: what is said, kept, repeated and stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dpo_bench.errors import ConfigurationError, EnvironmentProblem, TrialError
from dpo_bench.experiment.config import Evaluation
from dpo_bench.rewards.judge import find_judge
from dpo_bench.rewards.judge_refusal import wait_asked
from tests.rewards.judge_server import asked, running

PROMPTS = [f"prompt {index}" for index in range(20)]
LONG, SHORT = ["long enough"] * 20, ["no"] * 20


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running() as address:
        yield address


@pytest.fixture
def url() -> Iterator[str]:
    with running() as address:
        yield address


@pytest.fixture(autouse=True)
def _own_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("dpo_bench.rewards.judge_client.FIRST_WAIT", 0.01)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def compare(url: str, model: str, **more: Any) -> Any:
    settings = {"judge_key_variable": "", "judge_timeout": 10, "judge_retries": 1, **more}
    judge = find_judge(model, Evaluation(judge_base_url=url, **settings))
    return judge.compare(PROMPTS, LONG, SHORT)


def test_an_empty_answer_is_asked_again_and_its_tokens_count(url: str) -> None:
    found = compare(url, "once-empty")
    assert found.wins.tolist() == [1] * 20
    assert asked(url) == [2] * 40
    assert found.cost.input_tokens == 40 * 200


def test_an_answer_without_a_verdict_is_not_kept(url: str, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="the answer is empty"):
        compare(url, "once-empty", judge_retries=0)
    assert not list(tmp_path.rglob("*.json"))
    assert sum(asked(url)) == 2  # alone, one after the other: the others were never asked
    # The endpoint is well again, for the questions that it had left without an answer.
    assert compare(url, "once-empty", judge_retries=1).wins.tolist() == [1] * 20


def test_a_kept_answer_without_a_verdict_is_asked_again(url: str, tmp_path: Path) -> None:
    compare(url, "rule")
    (file, *_) = tmp_path.rglob("judged/*/*.json")
    file.write_text('{"reply": "", "input_tokens": 1, "output_tokens": 1}')
    assert compare(url, "rule").cost.asked == 1


@pytest.mark.parametrize(
    ("model", "reason", "asked_each"),
    [
        ("empty", "the answer is empty", 2),
        ("cut", "finish_reason length after 1 tokens: raise evaluation.judge_max_tokens", 1),
        ("filtered", "content_filter", 1),
        ("declines", "the judge refused: 'I must not.'", 1),
        ("calls", "called a tool", 1),
        ("only-thinks", "all text stands in reasoning_content", 1),
        ("chatty", "no verdict in the answer .*A is better than B", 1),
    ],
)
def test_why_there_is_no_verdict_is_said_before_all_are_paid(
    url: str, model: str, reason: str, asked_each: int
) -> None:
    with pytest.raises(TrialError, match=reason):
        compare(url, model)
    assert asked(url) == [asked_each] * 2


def test_a_model_that_thinks_without_an_opening_tag_is_understood(server: str) -> None:
    assert compare(server, "thinks").wins.tolist() == [1] * 20


@pytest.mark.parametrize(
    ("model", "notes"),
    [
        ("new", ["max_completion_tokens is sent"]),
        ("warm", ["own temperature"]),
        ("newest", ["max_completion_tokens is sent", "own temperature"]),
    ],
)
def test_a_refused_parameter_is_changed_once(
    url: str, model: str, notes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dpo_bench"):
        assert compare(url, model, judge_retries=0).wins.tolist() == [1] * 20
    assert sum(asked(url)) == 40 + len(notes)  # the first question alone found it out
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(notes)
    assert all(note in text for note, text in zip(notes, said, strict=True))


def test_answers_at_the_judges_own_temperature_are_said_also_when_kept(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for asked_now in (40, 0):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dpo_bench"):
            cost = compare(url, "warm").cost
        assert (cost.asked, cost.own_temperature) == (asked_now, 40)
        (record,) = caplog.records
        assert "own temperature" in record.getMessage()
    assert compare(url, "rule").cost.own_temperature == 0


@pytest.mark.parametrize(("model", "asked_each"), [("busy-200", 2), ("long-200", 1)])
def test_an_error_with_status_200_is_treated_by_its_code(
    url: str, model: str, asked_each: int
) -> None:
    with pytest.raises(TrialError, match=r"no chat completion but the error .*(overloa|too long)"):
        compare(url, model)
    assert asked(url) == [asked_each] * 2


@pytest.mark.parametrize("model", ["broke", "quota", "broke-200", "quota-200", "refuses"])
def test_what_no_later_request_can_mend_stops_at_once(url: str, model: str) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        compare(url, model, judge_failures=0.9)
    assert caught.value.exit_code == 3
    assert asked(url) == [1]


def test_a_wrong_path_is_hinted_at(server: str) -> None:
    with pytest.raises(EnvironmentProblem, match="is /v1 missing"):
        compare(server.removesuffix("/v1"), "rule")
    with pytest.raises(EnvironmentProblem, match="end before /chat/completions"):
        compare(server.removesuffix("/v1") + "/chat/completions", "rule")


@pytest.mark.parametrize("model", ["drips", "drips-headers", "drips-error"])
def test_the_time_limit_is_of_the_whole_answer(url: str, model: str) -> None:
    started = time.monotonic()
    with pytest.raises(TrialError, match=r"no complete answer.*judge_timeout = 0\.3"):
        compare(url, model, judge_timeout=0.3, judge_retries=1)
    assert time.monotonic() - started < 4  # four tries; one answer drips for five seconds
    assert asked(url) == [2] * 2


def test_an_answer_that_breaks_off_and_no_server_are_told(url: str) -> None:
    with pytest.raises(TrialError, match=f"no connection to {url}.*ConnectionError"):
        compare(url, "cut-off")
    with pytest.raises(TrialError, match=r"no connection to http://127\.0\.0\.1:1/v1.*refused"):
        compare("http://127.0.0.1:1/v1", "rule")


def test_proxies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:1")
    with pytest.raises(TrialError, match=r"through the proxy 127\.0\.0\.1:1 .*refused") as caught:
        compare("http://judge.invalid/v1", "rule")
    assert "secret" not in str(caught.value)
    for scheme in ("gopher", "socks5"):
        if scheme == "socks5" and find_spec("socksio"):
            continue
        monkeypatch.setenv("HTTP_PROXY", f"{scheme}://127.0.0.1:1")
        with pytest.raises(EnvironmentProblem, match=r"unset it.*pip install socksio"):
            compare("http://judge.invalid/v1", "rule")


def test_an_api_version_is_sent_and_other_queries_are_refused(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sk-azure")
    address = f"{server}?api-version=2024-10-21"
    assert compare(address, "azure", judge_key_variable="KEY").wins.tolist() == [1] * 20
    for query in ("key=secret", "api-version=1&sig=secret"):
        with pytest.raises(ConfigurationError, match="no credentials") as caught:
            compare(f"{server}?{query}", "rule")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-first\nsk-second", "sk-\u0430bc", "sk-\u2026"])
def test_a_key_that_no_header_can_carry_is_told(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", key)
    with pytest.raises(EnvironmentProblem, match="KEY has a line break or a letter") as caught:
        compare("http://127.0.0.1:1/v1", "rule", judge_key_variable="KEY")
    assert key not in str(caught.value)


def test_the_endpoint_says_when_to_come_back(url: str) -> None:
    started = time.monotonic()
    compare(url, "later")
    assert time.monotonic() - started >= 0.8  # the first alone, then all others at once


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "45"}, 45),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "86400"}, 300),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "nan", "retry-after": "9"}, 9),
        ({"retry-after": "Fri, 02 Jan 2026 00:01:10 GMT"}, 70),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:00 GMT"}, 0),
    ],
)
def test_all_forms_of_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_asked(headers, datetime(2026, 1, 2, tzinfo=UTC)) == seconds
