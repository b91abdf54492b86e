"""Situations of judges."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.rewards.case import Case, Lab, Ran
from benchmarks.rewards.endpoint import KEY, longer, prefers_the_withdrawn, seen
from dpo_bench.storage import cache_root

STOPS = "The sweep stops at the first refusal with exit 3, in the endpoint's words, asking once."
TWO_QUESTIONS = "The cause is said after two questions; the others are never paid."
READS = "Every answer is read as the verdict that it is; the win rate is that of plain code."
WITH_KEY = ("evaluation.judge_key_variable=JUDGE_KEY",)
NO_RETRY = ("evaluation.judge_retries=0",)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _parameters()
    yield from _answers()
    yield from _faults()
    yield from _refusals()
    yield from _addresses()
    yield from _interruptions()
    yield from _biases()


def _right(name: str, tried: str, wished: str, way: str, **more: object) -> Case:
    return Case(name, tried, wished, f"judge:{way}", rule=longer, **more)  # type: ignore[arg-type]


def _fails(name: str, tried: str, wished: str, way: str, *words: str, **more: object) -> Case:
    return Case(name, tried, wished, f"judge:{way}", code=1, words=words, **more)  # type: ignore[arg-type]


def _parameters() -> Iterator[Case]:
    yield _right(
        "new", "refuses `max_tokens`",
        "`max_completion_tokens` is sent instead, found out once.", "new",
        words=("max_completion_tokens is sent",), more=_one_more_than_questions,
    )  # fmt: skip
    yield _right(
        "warm", "refuses `temperature` = 0",
        "It judges at its own temperature, which terminal, report and results say, also when all"
        " answers had been kept.",
        "warm", words=("own temperature",), more=_temperature_is_said,
    )  # fmt: skip
    yield _right(
        "newest", "refuses both", "Both are changed, each once.", "newest",
        words=("max_completion_tokens is sent", "own temperature"),
    )  # fmt: skip


def _one_more_than_questions(_lab: Lab, _case: Case, ran: Ran) -> str:
    extra = ran.seen["requests"] - ran.seen["questions"]
    return "" if extra == 1 else f"{extra} requests beside the questions"


def _temperature_is_said(lab: Lab, case: Case, ran: Ran) -> str:
    again = lab.run(case, out="warm again")
    if again.seen["requests"] != ran.seen["requests"]:
        return "answers that had been kept were asked again"
    for one in (ran, again):
        marked = int(one.table["judge_own_temperature"].sum())
        if not marked or "own temperature" not in one.text or "own temperature" not in one.report:
            return "another temperature is not said in terminal, report and results"
    return ""


def _answers() -> Iterator[Case]:
    yield _right(
        "readable", "`<think>`, `**A**`, JSON, `\\boxed{A}`, U+200B, `</s>` and 16 others, mixed",
        READS, "readable", betas="0.1,0.3",
    )  # fmt: skip
    yield Case(
        "unreadable", "`C`, two verdicts, harmony channels without an end: every third answer",
        "No verdict is guessed: each such answer is counted as one without.", "judge:unreadable",
        settings=("evaluation.judge_failures=0.9",), more=_counts_the_unreadable,
    )  # fmt: skip
    yield _right(
        "no-opening", "thought that the template opens: `...</think>A`", READS, "no-opening"
    )
    yield _right("thinks", "`<think>` with a verdict in it, then another", READS, "thinks")
    yield _right("parts", "content in parts", READS, "parts")
    reasons = {
        "thought-ate": (
            "the thought ate `max_tokens`",
            "finish_reason length after 1 tokens: raise",
        ),
        "filter": ("the filter struck", "content_filter"),
        "refusal": ("the model refused", "the judge refused: 'I must not.'"),
        "tool": ("it called a tool", "called a tool"),
        "all-reasoning": ("all in `reasoning_content`", "all text stands in reasoning_content"),
        "empty": ("empty", "the answer is empty"),
    }
    for way, (tried, words) in reasons.items():
        yield _fails(
            way, tried, TWO_QUESTIONS, way, words,
            requests=4 if way == "empty" else 2,
        )  # fmt: skip
    yield _right(
        "needs-room", "the same thought with `judge_max_tokens=2048`", READS, "needs-room",
        settings=("evaluation.judge_max_tokens=2048",),
    )  # fmt: skip
    yield _fails(
        "once-empty", "empty once, with no retries; then the same command with one",
        "An answer without a verdict is not kept: once the endpoint is well, so is the sweep.",
        "once-empty", "the answer is empty", settings=NO_RETRY, requests=2, more=_well_again,
    )  # fmt: skip


def _counts_the_unreadable(_lab: Lab, _case: Case, ran: Ran) -> str:
    counted = int(ran.table["judge_failures"].sum())
    rest = ran.seen["unreadable"]
    asked_once = ran.seen["tries"] <= 2  # controls and trials may share a question
    return "" if 0 < counted <= rest and asked_once else f"{counted} counted of {rest}"


def _well_again(lab: Lab, case: Case, _ran: Ran) -> str:
    again = lab.run(case, settings=("evaluation.judge_retries=1",))
    if again.code:
        return f"exit {again.code} when it was well again"
    return lab.win_rate_fault(dataclasses.replace(case, rule=longer), again)


def _faults() -> Iterator[Case]:
    garbage = {
        "error-200": ("200 with an error of code 502", "overloaded"),
        "no-choices": ("200 without choices", "no chat completion but '{\"choices"),
        "html": ("200 with HTML", "<html>Bad gateway"),
        "cut-json": ("200 with cut JSON", "no chat completion"),
        "reset": ("connection reset in the body, always", "no connection to"),
        "always-500": ("500, always", "oops"),
    }
    for way, (tried, words) in garbage.items():
        wished = "Asked twice each, then two questions end it, with the endpoint's own words."
        yield _fails(way, tried, wished, way, words, requests=4)
    for way in ("once-reset", "once-500"):
        yield _right(way, f"{way.replace('-', ' ')}, each question", "Asked again.", way)
    waits = {
        "wait-1": ("429 with `Retry-After: 1`", 1.0),
        "wait-31": ("`Retry-After: 31`, beyond the longest wait of our own", 31.0),
        "wait-date": ("`Retry-After` as a date in three seconds", 2.0),
        "wait-ms": ("`retry-after-ms: 1500`", 1.5),
        "wait-nan": ("`Retry-After: nan`", 0.25),
    }
    for way, (tried, least) in waits.items():
        yield _right(way, tried, "It waits as long as asked.", way, seconds=(least, least + 25))
    in_time = "No request takes longer than `judge_timeout`, 1 s; four tries, then the cause."
    drips = {
        "silent": "silent server",
        "drips-body": "the body drips for 8 s",
        "drips-headers": "the headers drip for 8 s",
        "drips-error": "the body of a 500 drips for 8 s",
    }
    for way, tried in drips.items():
        yield _fails(
            way, tried, in_time, way, "no complete answer from", "judge_timeout = 1 seconds",
            settings=("evaluation.judge_timeout=1",), seconds=(4, 16), requests=4,
        )  # fmt: skip
    yield _fails(
        "filters-tenth", "a filter refuses a tenth of the questions with 400",
        "More than `judge_failures` ends the sweep in the controls, with the endpoint's words.",
        "filters-tenth", "content management policy", "judge_failures allows",
    )  # fmt: skip


def _refusals() -> Iterator[Case]:
    refused = {
        "bad-key": ("401, with the key in its message", "Incorrect API key ***"),
        "forbidden": ("403", "your country is not served"),
        "no-model": ("404, unknown model", "model does not exist"),
        "no-balance": ("402", "Insufficient balance"),
        "no-quota": ("429 `insufficient_quota`", "exceeded your quota"),
        "no-balance-200": ("200 whose error has code 402", "Insufficient credits"),
        "no-quota-200": ("200 whose error is `insufficient_quota`", "your quota"),
    }
    for way, (tried, words) in refused.items():
        key = {"JUDGE_KEY": KEY} if way == "bad-key" else {}
        yield Case(
            way, tried, STOPS, f"judge:{way}", code=3, words=(words,), requests=1,
            settings=WITH_KEY if key else (), environment=key, unsaid=(KEY,),
        )  # fmt: skip
    yield Case(
        "revoked", "the key is revoked after 10 answers", "Exit 3, and nothing is asked twice.",
        "judge:revoked", code=3, words=("This key was revoked",), more=_nothing_twice,
    )  # fmt: skip
    yield Case(
        "broke-later", "402 after the controls, 4 trials",
        "The sweep stops at once with exit 3; no further trial is trained.", "judge:broke-later",
        code=3, words=("Insufficient balance",), betas="0.1,0.2,0.3,0.4", more=_nothing_twice,
    )  # fmt: skip
    yield _fails(
        "refuses-later", "every trial fails, after the controls",
        "Nobody is told to give a reward.",
        "refuses-later", "context too long", unsaid=("No reward was given",), betas="0.1,0.2",
    )  # fmt: skip
    bad = {"key-of-two-lines": "sk-first\nsk-second", "key-with-cyrillic": "sk-\u0430bc"}
    for name, key_text in bad.items():
        yield Case(
            name, f"key {key_text!r}", "Exit 3 and the variable's name; nothing is asked.",
            "judge:rule", WITH_KEY, 3, ("JUDGE_KEY has a line break or a letter",), (key_text,), 0,
            environment={"JUDGE_KEY": key_text},
        )  # fmt: skip


def _nothing_twice(_lab: Lab, _case: Case, ran: Ran) -> str:
    return "" if ran.seen["tries"] == 1 else f"a question was asked {ran.seen['tries']} times"


def _addresses() -> Iterator[Case]:
    yield _fails(
        "no-server", "no server", "Address and cause are said.", "rule",
        "no connection to http://127.0.0.1:1/v1", "refused", path="http://127.0.0.1:1/v1",
    )  # fmt: skip
    yield _fails(
        "dead-proxy", "dead `HTTP_PROXY`, judge on this machine",
        "The proxy is named, without its password.", "rule",
        "through the proxy 127.0.0.1:1", "refused", unsaid=("secret",),
        environment={"HTTP_PROXY": "http://me:secret@127.0.0.1:1"},
    )  # fmt: skip
    yield Case(
        "socks-proxy", "`ALL_PROXY=socks5://...` without its package",
        "Exit 3 and what to install.",
        "judge:rule", code=3, words=("pip install socksio",), requests=0,
        environment={"ALL_PROXY": "socks5://127.0.0.1:1"},
    )  # fmt: skip
    yield _right(
        "slashes", "base URL with `/` and `//` at its end",
        "The same judge: nothing is asked again.",
        "rule", more=_slashes_are_the_same,
    )  # fmt: skip
    for name, path, words in (
        ("no-v1", "", "is /v1 missing at the end"),
        ("whole-path", "/v1/chat/completions", "must end before /chat/completions"),
    ):
        yield Case(
            name, f"base URL ending with `{path or ':PORT'}`", "Exit 3 and what is wrong with it.",
            "judge:rule", code=3, words=("404", words), path=path,
        )  # fmt: skip
    yield Case(
        "no-scheme", "base URL without scheme", "Exit 2 and the key's name.", "judge:rule",
        ("evaluation.judge_base_url=127.0.0.1/v1",), 2, ("judge_base_url",), requests=0,
    )  # fmt: skip
    yield _right("azure", "Azure's `?api-version=`", "It is sent, with the key as `api-key`.",
                 "azure", path="/v1?api-version=2024-10-21")  # fmt: skip
    yield Case(
        "key-in-address", "a key in the address",
        "Exit 2 without repeating it.", "judge:rule", code=2,
        words=("must carry no credentials",), unsaid=("sk-in-url",), path="/v1?key=sk-in-url",
    )  # fmt: skip
    yield _right(
        "colon-in-id", "model `qwen2.5:7b-instruct`", "The id is sent whole.", "qwen2.5:7b-instruct"
    )
    yield _right(
        "slash-in-id", "model `org/model-1`, key with spaces around it",
        "The id is sent whole; the key is in the header only, in no file.", "org/model-1",
        settings=WITH_KEY, environment={"JUDGE_KEY": f" {KEY} "}, more=_key_in_no_file,
    )  # fmt: skip
    yield _right("redirected", "307 to another path", "Followed.", "redirected")


def _slashes_are_the_same(lab: Lab, case: Case, ran: Ran) -> str:
    for end in ("/", "//"):
        address = f"evaluation.judge_base_url={lab.url}{end}"
        again = lab.run(case, settings=(address,), out=f"slashes {len(end)}")
        if again.code or again.seen["requests"] != ran.seen["requests"]:
            return f"{again.seen['requests'] - ran.seen['requests']} requests for {end}"
    return ""


def _key_in_no_file(_lab: Lab, _case: Case, ran: Ran) -> str:
    if ran.seen["keys"] != ["right"]:
        return f"the endpoint got the keys {ran.seen['keys']}"
    for folder in (ran.folder, cache_root() / "judged"):
        for file in folder.rglob("*"):
            if file.is_file() and KEY.encode() in file.read_bytes():
                return f"the key is in {file.name}"
    return ""


def _interruptions() -> Iterator[Case]:
    yield _right(
        "killed", "SIGKILL after 10 answers, then the same command",
        "No kept answer is asked again: at most those under way are asked twice.", "slow",
        before=_killed, more=_at_most_those_under_way, settings=("evaluation.judge_concurrency=2",),
    )  # fmt: skip
    yield _right(
        "two-workers", "two workers, `judge_concurrency` 8",
        "Never more than 8 under way in each worker, and no question twice.", "counted",
        betas="0.1,0.3,0.5,1", workers=2, more=_within_limits,
    )  # fmt: skip


def _killed(lab: Lab, case: Case) -> None:
    command = lab.command(case, lab.root / "out" / case.name)
    process = subprocess.Popen(
        [sys.executable, "-m", "dpo_bench", *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while seen(lab.url, lab.model(case))["answered"] < 10 and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _at_most_those_under_way(_lab: Lab, _case: Case, ran: Ran) -> str:
    again = ran.seen["requests"] - ran.seen["questions"]
    return "" if again <= 2 and ran.seen["requests"] >= 12 else f"{again} questions asked again"


def _within_limits(_lab: Lab, _case: Case, ran: Ran) -> str:
    if ran.seen["most"] > 16 or ran.seen["tries"] > 1:
        return f"{ran.seen['most']} at once, a question {ran.seen['tries']} times"
    return ""


def _biases() -> Iterator[Case]:
    first = (
        "The first line of terminal and report says so with the interval; nothing is called best."
    )
    yield Case(
        "always-A", "always A", f"Every pair a tie, 0.500. {first}", "judge:always-A",
        words=("warning: The judge follows the place, not the text", "orders agree on 0 [0, 0]"),
        rule=lambda _first, _second: "A", betas="0.1,0.3", more=_nobody_is_best,
    )  # fmt: skip
    yield Case(
        "always-TIE", "always TIE", "Every pair a tie, 0.500; nothing is called best.",
        "judge:always-TIE", rule=lambda _first, _second: "TIE", betas="0.1,0.3",
        more=_nobody_is_best, unsaid=("follows the place",),
    )  # fmt: skip
    yield Case(
        "coin", "a coin", "Said where, and only where, the orders agree on less than .6.",
        "judge:coin", more=_said_where_it_is_so,
    )  # fmt: skip
    yield Case(
        "obeys", "obeys the injection", "The control `injection` is missed, and said.",
        "judge:obeys", rule=prefers_the_withdrawn, words=("Control 'injection' gave",),
    )  # fmt: skip
    yield _right(
        "counts-characters", "counts characters only", "The control `injection` holds.",
        "rule", unsaid=("Control 'injection' gave",), more=_no_gain,
    )  # fmt: skip


def _nobody_is_best(_lab: Lab, _case: Case, ran: Ran) -> str:
    summary = ran.report.split("\n\n")[1]
    if "best" in summary or not ("follows the place" in summary or "is a tie" in summary):
        return f"the report begins {summary!r}"
    if "follows the place" in ran.text.partition("computed now")[2]:
        return "the terminal says it behind the table"
    page = (ran.folder / "report.html").read_text(encoding="utf-8")
    if "Best win rate" in page:
        return "the page has a tile of the best win rate"
    tied = ran.table[["win_rate", "win_rate_low", "win_rate_high"]].to_numpy()
    return "" if (tied == 0.5).all() else "a win rate is not .5"


def _said_where_it_is_so(_lab: Lab, _case: Case, ran: Ran) -> str:
    low = bool(ran.table["control_order"][0] < 0.6)
    return "" if ("follows the place" in ran.text) == low else f"not in accord with {low}"


def _no_gain(_lab: Lab, _case: Case, ran: Ran) -> str:
    gain = float(ran.table["control_injection"][0])
    return "" if gain == 0 else f"an injection of equal length gains {gain}"
