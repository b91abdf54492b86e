"""An OpenAI-compatible endpoint in a process of its own, which judges by a rule, over real sockets.

The rule: the longer response is better, equally long ones are a tie. It finds the responses by the
code of their fences, as a model is told to. Other models of it misbehave in the ways of real ones.
Run as a program it prints its address; ``GET /asked`` tells how often each question came.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ASKED: Counter[str] = Counter()
LOCK = threading.Lock()
FENCED = re.compile(r"\[(\w{20}) BEGIN RESPONSE ([AB])\]\n(.*?)\n\[\1 END RESPONSE \2\]", re.DOTALL)


STALLS = {
    "drips": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" ", 100),
    "drips-headers": (b"HTTP/1.1 200 OK\r\n", b"X-Wait: yes\r\n", 100),
    "drips-error": (b"HTTP/1.1 500 Oops\r\nContent-Length: 1000\r\n\r\n", b" ", 100),
    "cut-off": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b'{"choices"', 1),
}
"""Of each how its answer begins, and the pieces in which it goes on."""
REPORTED: dict[str, dict[str, Any]] = {
    "broke-200": {"message": "pay", "code": 402},
    "quota-200": {"message": "pay", "code": "insufficient_quota"},
    "busy-200": {"message": "overloaded", "code": 529},
    "long-200": {"message": "too long", "code": "400"},
}
"""Errors that come with status 200."""
LATER = ("retry-after-ms", "400")
UNPAID = {"broke": (402, "balance"), "quota": (429, "insufficient_quota")}
NO_ANSWER: dict[str, dict[str, Any]] = {
    "empty": {"answer": ""},
    "cut": {"answer": "", "reason": "length", "reasoning_content": "Let me see"},
    "filtered": {"answer": None, "reason": "content_filter"},
    "declines": {"answer": None, "refusal": "I must not."},
    "calls": {"answer": None, "reason": "tool_calls", "tool_calls": [{"id": "1"}]},
    "only-thinks": {"answer": None, "reasoning_content": "B, I think"},
}


def _refused(model: str, body: dict[str, Any]) -> dict[str, str] | None:
    """What a model refuses in a request, in the words of real endpoints."""
    if model in ("new", "newest") and "max_tokens" in body:
        return {
            "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "param": "max_tokens",
            "code": "unsupported_parameter",
        }
    if model in ("warm", "newest") and "temperature" in body:
        return {
            "message": "Unsupported value: 'temperature' does not support 0 with this model. "
            "Only the default (1) value is supported.",
            "param": "temperature",
            "code": "unsupported_value",
        }
    if model not in ("new", "warm", "newest"):
        assert body["temperature"] == 0
        assert body["max_tokens"] > 0
    return None


def _obeyed(question: str) -> str:
    """The shorter response, but what says that the other was withdrawn before all."""
    texts = {name: text for _, name, text in FENCED.findall(question)}
    ranks = {name: ("withdrawn" in text, -len(text)) for name, text in texts.items()}
    return "TIE" if ranks["A"] == ranks["B"] else max(ranks, key=lambda name: ranks[name])


def rule(question: str) -> str:
    texts = {name: text for _, name, text in FENCED.findall(question)}
    first, second = len(texts["A"]), len(texts["B"])
    return "TIE" if first == second else ("A" if first > second else "B")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._reply(200, json.dumps(list(ASKED.values())))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question, model = body["messages"][0]["content"], body["model"]
        with LOCK:
            ASKED[question] += 1
            times = ASKED[question]
        if not self.path.startswith("/v1/"):
            self._reply(404, "{}")
        elif not self._misbehave(model, question, times, body):
            self._judge(model, question, times)

    def _misbehave(self, model: str, question: str, times: int, body: dict[str, Any]) -> bool:
        """Reply as a model that is named by its fault; whether it has one now."""
        if refusal := _refused(model, body):
            self._reply(400, json.dumps({"error": refusal}))
        elif model in NO_ANSWER:
            self._complete(**NO_ANSWER[model])
        elif model in ("once-empty", "later") and times == 1:
            self._complete("") if model == "once-empty" else self._reply(429, "{}", LATER)
        elif model in UNPAID:
            status, code = UNPAID[model]
            self._reply(status, json.dumps({"error": {"message": "pay", "code": code}}))
        elif model in REPORTED:
            self._reply(200, json.dumps({"error": REPORTED[model]}))
        elif model == "azure" and (
            "?api-version=2024-10-21" not in self.path or self.headers["api-key"] != "sk-azure"
        ):
            self._reply(401, "{}")
        elif model in STALLS:
            self._stall(*STALLS[model])
        else:
            return False
        return True

    def _judge(self, model: str, question: str, times: int) -> None:
        if model == "flaky":
            return self._flaky(question, times)
        if model == "refuses":
            key = self.headers["Authorization"].removeprefix("Bearer ")
            return self._reply(401, json.dumps({"error": {"message": f"wrong key {key}"}}))
        if model == "down":
            return self._reply(503, "{}")
        if model == "strict":
            return self._reply(400, json.dumps({"error": {"message": "context too long"}}))
        if model == "hangs" and times == 1:
            time.sleep(1.0)
        if model == "slow":
            time.sleep(0.05)
        verdict = rule(question)
        others = {
            "first": "A",
            "chatty": "A is better than B.",
            "obeys": _obeyed(question),
            "thinks": f"Response A says: B.\n</think>\n\n{verdict}</s>",
        }
        answer = others.get(model, verdict)
        return self._complete(answer)

    def _flaky(self, question: str, times: int) -> None:
        """Busy, then broken, then garbage in three forms, then right."""
        faults = [(429, "{}"), (500, "oops"), (200, "<html>"), (200, "{}"), (200, "null")]
        if times <= len(faults):
            return self._reply(*faults[times - 1])
        return self._complete(rule(question))

    def _stall(self, start: bytes, piece: bytes, times: int) -> None:
        """So many pieces of an answer that is never whole, then a closed connection."""
        self.wfile.write(start)
        with suppress(OSError):  # the other side had enough
            for _ in range(times):
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(0.05)
        self.close_connection = True

    def _complete(self, answer: str | None, reason: str = "stop", **more: Any) -> None:
        message = {"role": "assistant", "content": answer, **more}
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        choice = {"index": 0, "finish_reason": reason, "message": message}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "rule"}
        self._reply(200, json.dumps({**body, "choices": [choice], "usage": usage}))

    def _reply(self, status: int, text: str, header: tuple[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status == 429:
            self.send_header(*(header or ("Retry-After", "0")))
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def running() -> Iterator[str]:
    """The endpoint's base URL while it runs."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def asked(url: str) -> list[int]:
    """How often each question came so far."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/asked") as answer:
        return list(json.load(answer))


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
