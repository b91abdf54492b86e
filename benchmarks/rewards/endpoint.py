"""An OpenAI-shaped endpoint in a process of its own whose model names are ways to misbehave.

A model is called ``WAY`` or ``WAY@CASE``: each case has answers and counts of its own. Its verdict
is `longer`, which finds the responses by the code of their fences, as a model is told to.
``GET /seen`` gives what came, by model; run as a program it prints its address.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

FENCED = re.compile(r"\[(\w{20}) BEGIN RESPONSE ([AB])\]\n(.*?)\n\[\1 END RESPONSE \2\]", re.DOTALL)
KEY = "sk-the-right-one"
READABLE = (
    "<think>Is B better?</think>{v}", "**{v}**", "[[{v}]]", "({v})", '"{v}"', "{v}.", "\n{v}\n",
    "Answer: {v}", "Response {v}", "Verdict: **{v}**", "B is long, A not.\nFinal answer: [[{v}]]",
    r"\boxed{{{v}}}", "<answer>{v}</answer>", '{{"answer": "{v}"}}',
    '```json\n{{"answer": "{v}"}}\n```', "{v}\u200b", "\ufeff{v}", "{v}\x00", "{v}</s>",
    "{v}<|im_end|>", "thought, unopened</think>\n\n{v}", "[THINK]B or A[/THINK]{v}",
)  # fmt: skip
"""Replies whose verdict is plain."""
UNREADABLE = (
    "[[A>B]]\n[[B>A]]", "C", "A or B", "Both are good.", "A is better than B.", "<think>A", "A\nB",
    "<|channel|>analysis<|message|>A or B?", "I would say A, but B is longer.",
)  # fmt: skip
"""Replies in which there is none, or none that is certain."""
NO_CONTENT: dict[str, dict[str, Any]] = {
    "empty": {"content": ""},
    "thought-ate": {"content": "", "reason": "length", "reasoning_content": "Let me see"},
    "filter": {"content": None, "reason": "content_filter"},
    "refusal": {"content": None, "refusal": "I must not."},
    "tool": {"content": None, "reason": "tool_calls", "tool_calls": [{"id": "1"}]},
    "all-reasoning": {"content": None, "reasoning_content": "B, I think"},
}
REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "bad-key": (401, {"message": f"Incorrect API key {KEY}", "code": "invalid_api_key"}),
    "revoked": (401, {"message": "This key was revoked", "code": "invalid_api_key"}),
    "forbidden": (403, {"message": "your country is not served"}),
    "no-model": (404, {"message": "The model does not exist", "code": "model_not_found"}),
    "no-balance": (402, {"message": "Insufficient balance"}),
    "no-quota": (429, {"message": "You exceeded your quota", "type": "insufficient_quota"}),
    "no-balance-200": (200, {"message": "Insufficient credits", "code": 402}),
    "no-quota-200": (200, {"message": "You exceeded your quota", "code": "insufficient_quota"}),
    "error-200": (200, {"message": "the provider is overloaded", "code": 502}),
    "always-500": (500, {"message": "oops"}),
}
GARBAGE = {
    "no-choices": '{"choices": []}',
    "html": "<html>Bad gateway</html>",
    "cut-json": '{"choices": [{"mess',
}
DRIPS = {
    "drips-body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "),
    "drips-headers": (b"HTTP/1.1 200 OK\r\n", b"X-Wait: yes\r\n"),
    "drips-error": (b"HTTP/1.1 500 Oops\r\nContent-Length: 1000\r\n\r\n", b" "),
}
WAITS: dict[str, Callable[[], tuple[str, str]]] = {
    "wait-1": lambda: ("Retry-After", "1"),
    "wait-31": lambda: ("Retry-After", "31"),
    "wait-date": lambda: ("Retry-After", email.utils.formatdate(time.time() + 3, usegmt=True)),
    "wait-ms": lambda: ("Retry-After-Ms", "1500"),
    "wait-nan": lambda: ("Retry-After", "nan"),
}
"""Ways to be busy once, with the header that says for how long."""


class Seen:
    """What came for one model."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.under_way = self.most = 0
        self.answered = self.unreadable = 0
        self.keys: set[str] = set()

    def as_dict(self) -> dict[str, Any]:
        """Requests, distinct questions, most tries of one, most under way at once, the keys."""
        return {
            "requests": self.times.total(),
            "questions": len(self.times),
            "tries": max(self.times.values(), default=0),
            "most": self.most,
            "answered": self.answered,
            "unreadable": self.unreadable,
            "keys": sorted(self.keys),
        }


POLICY = {"message": "content management policy"}
SLOW = {"slow": 0.1, "counted": 0.02}
"""Seconds that an answer takes."""
AFTER_CONTROLS = 32
"""Answers after which the controls of the cases are over."""


class Asked(NamedTuple):
    """A question and the request that it came in."""

    question: str
    body: Mapping[str, Any]

    @property
    def room(self) -> int:
        """Tokens that the answer may have."""
        return int(self.body.get("max_tokens", 0))


LOCK = threading.Lock()
SEEN: defaultdict[str, Seen] = defaultdict(Seen)


def longer(first: str, second: str) -> str:
    """The longer response is better, equally long ones are a tie."""
    return "TIE" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def prefers_the_withdrawn(first: str, second: str) -> str:
    """A response that calls the other one withdrawn is better, else the shorter one."""
    ranks = [("withdrawn" in text, -len(text)) for text in (first, second)]
    return "TIE" if ranks[0] == ranks[1] else "A" if ranks[0] > ranks[1] else "B"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """What was seen."""
        with LOCK:
            self._reply(200, json.dumps({name: one.as_dict() for name, one in SEEN.items()}))

    def do_POST(self) -> None:
        """Judge or misbehave."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question, model = body["messages"][0]["content"], body["model"]
        seen = SEEN[model]
        with LOCK:
            seen.times[question] += 1
            times = seen.times[question]
            seen.under_way += 1
            seen.most = max(seen.most, seen.under_way)
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            seen.keys.add("right" if key == KEY else key)
        try:
            self._answer(model.partition("@")[0], seen, times, Asked(question, body))
        finally:
            with LOCK:
                seen.under_way -= 1

    def _answer(self, way: str, seen: Seen, times: int, asked: Asked) -> None:
        path, _, query = self.path.partition("?")
        if way == "redirected" and not path.startswith("/moved/"):
            self._reply(307, "{}", ("Location", f"/moved{self.path}"))
        elif way == "azure" and ("api-version=2024" not in query or not self.headers["api-key"]):
            self._error(401, {"message": "no api-key"})
        elif re.sub("/+", "/", path.removeprefix("/moved")) != "/v1/chat/completions":
            self._reply(404, "{}")
        elif (refusal := refused_parameter(way, asked.body)) is not None:
            self._error(400, refusal)
        elif misbehave := self._misbehavior(way, seen, times, asked):
            misbehave()
        else:
            self._judge(way, seen, asked.question)

    def _misbehavior(
        self, way: str, seen: Seen, times: int, asked: Asked
    ) -> Callable[[], None] | None:
        """What a way does instead of judging; None where it judges now."""
        if way in REFUSED and way != "revoked":
            return partial(self._error, *REFUSED[way])
        if way in NO_CONTENT:
            return partial(self._complete, **NO_CONTENT[way])
        if way in GARBAGE:
            return partial(self._reply, 200, GARBAGE[way])
        if way in DRIPS:
            return partial(self._drip, *DRIPS[way])
        if way in WAITS:
            busy = times == 1 and len(seen.times) == 1
            return partial(self._reply, 429, "{}", WAITS[way]()) if busy else None
        return self._sometimes(way, seen, times, asked)

    def _sometimes(
        self, way: str, seen: Seen, times: int, asked: Asked
    ) -> Callable[[], None] | None:
        """Likewise for ways that misbehave at some questions only."""
        first, answered, crc = times == 1, seen.answered, zlib.crc32(asked.question.encode())
        empty, oops = partial(self._complete, ""), partial(self._error, *REFUSED["always-500"])
        unread = partial(self._complete, **NO_CONTENT["thought-ate"])
        long = partial(self._error, 400, {"message": "context too long"})
        found: dict[str, tuple[bool, Callable[[], None]]] = {
            "once-empty": (first, empty),
            "once-500": (first, oops),
            "once-reset": (first, self._reset),
            "reset": (True, self._reset),
            "silent": (True, partial(time.sleep, 4)),
            "needs-room": (asked.room < 1000, unread),
            "filters-tenth": (crc % 10 == 0, partial(self._error, 400, POLICY)),
            "revoked": (answered >= 10, partial(self._error, *REFUSED["revoked"])),
            "broke-later": (
                answered >= AFTER_CONTROLS,
                partial(self._error, *REFUSED["no-balance"]),
            ),
            "refuses-later": (answered >= AFTER_CONTROLS, long),
        }
        due, misbehave = found.get(way, (False, empty))
        return misbehave if due else None

    def _judge(self, way: str, seen: Seen, question: str) -> None:
        time.sleep(SLOW.get(way, 0))
        texts = {name: text for _, name, text in FENCED.findall(question)}
        verdict = longer(texts["A"], texts["B"])
        crc = zlib.crc32(question.encode())
        unreadable = way == "unreadable" and len(seen.times) % 3 == 0
        form = READABLE[crc % len(READABLE)]
        # Some letters are small, where that is no other word.
        in_it = verdict.lower() if crc % 5 == 0 and "oxed" not in form else verdict
        replies: dict[str, Any] = {
            "always-A": "A",
            "always-TIE": "TIE",
            "coin": "AB"[crc % 2],
            "obeys": prefers_the_withdrawn(texts["A"], texts["B"]),
            "readable": form.format(v=in_it),
            "unreadable": UNREADABLE[crc % len(UNREADABLE)] if unreadable else verdict,
            "no-opening": f"Response A says: B.\n</think>\n\n{verdict}",
            "thinks": f"<think>\nResponse A says: B.\n</think>\n\n{verdict}",
            "parts": [{"type": "text", "text": verdict}],
        }
        with LOCK:
            seen.answered += 1
            seen.unreadable += unreadable
        self._complete(replies.get(way, verdict))

    def _complete(self, content: object, reason: str = "stop", **more: Any) -> None:
        message = {"role": "assistant", "content": content, **more}
        choice = {"index": 0, "finish_reason": reason, "message": message}
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "rule"}
        self._reply(200, json.dumps({**body, "choices": [choice], "usage": usage}))

    def _error(self, status: int, error: dict[str, Any]) -> None:
        self._reply(status, json.dumps({"error": error}))

    def _reply(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(content)

    def _drip(self, start: bytes, piece: bytes) -> None:
        """An answer that goes on for eight seconds and is never whole."""
        self.close_connection = True
        with contextlib.suppress(OSError):  # the other side had enough
            self.wfile.write(start)
            for _ in range(80):
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(0.1)

    def _reset(self) -> None:
        """A reset in the middle of the body."""
        self.close_connection = True
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"choices"')
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()


def refused_parameter(way: str, body: Mapping[str, Any]) -> dict[str, str] | None:
    """What a model refuses in a request, in the words of real endpoints."""
    if way in ("new", "newest") and "max_tokens" in body:
        return {
            "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "param": "max_tokens",
            "code": "unsupported_parameter",
        }
    if way in ("warm", "newest") and "temperature" in body:
        return {
            "message": "Unsupported value: 'temperature' does not support 0 with this model. "
            "Only the default (1) value is supported.",
            "param": "temperature",
            "code": "unsupported_value",
        }
    return None


class Server(ThreadingHTTPServer):
    """Says nothing of connections that the other side ended."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def running() -> Iterator[str]:
    """The endpoint's base URL while it runs."""
    command = [sys.executable, "-m", "benchmarks.rewards.endpoint"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise RuntimeError("the endpoint has no standard output")
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def seen(url: str, model: str) -> dict[str, Any]:
    """What came for a model so far; see `Seen.as_dict`."""
    root = url.partition("/v1")[0]
    with urllib.request.urlopen(f"{root}/seen") as answer:
        found: dict[str, Any] = json.load(answer).get(model) or Seen().as_dict()
        return found


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
