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
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ASKED: Counter[str] = Counter()
LOCK = threading.Lock()
FENCED = re.compile(r"\[(\w{20}) BEGIN RESPONSE ([AB])\]\n(.*?)\n\[\1 END RESPONSE \2\]", re.DOTALL)


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
        assert body["temperature"] == 0
        with LOCK:
            ASKED[question] += 1
            times = ASKED[question]
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
        answer = {"first": "A", "chatty": "A is better than B."}.get(model) or rule(question)
        return self._complete(answer)

    def _flaky(self, question: str, times: int) -> None:
        """Busy, then broken, then garbage in three forms, then right."""
        faults = [(429, "{}"), (500, "oops"), (200, "<html>"), (200, "{}"), (200, "null")]
        if times <= len(faults):
            return self._reply(*faults[times - 1])
        return self._complete(rule(question))

    def _complete(self, answer: str) -> None:
        self._reply(
            200,
            json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "rule",
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": "stop",
                            "message": {"role": "assistant", "content": answer},
                        }
                    ],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101},
                }
            ),
        )

    def _reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status == 429:
            self.send_header("Retry-After", "0")
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
