"""A hub of our own, served on this machine, asked by the real client libraries."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from tests.data.build import rows

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/preferences"
ASK = """
import sys
from dpo_bench.data.sources import read_rows, source_splits
from dpo_bench.errors import DpoBenchError
for question in sys.argv[1:]:
    source, split, subset = [*question.split(":"), "", ""][:3]
    subset = subset or None
    try:
        print(len(read_rows(source, split, subset)) if split else source_splits(source, subset))
    except DpoBenchError as problem:
        print(type(problem).__name__, problem)
"""


def _lines(count: int) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in rows(count)).encode()


CONFIGS = b"""---
configs:
- config_name: default
  data_files: [{split: train, path: data/train.jsonl}, {split: test, path: data/test.jsonl}]
- config_name: small
  data_files: [{split: train_prefs, path: data/test.jsonl}]
---
"""
FILES = {"README.md": CONFIGS, "data/train.jsonl": _lines(20), "data/test.jsonl": _lines(5)}


def _entry(path: str, content: bytes | None) -> dict[str, Any]:
    kind = "directory" if content is None else "file"
    oid = hashlib.sha1(content or path.encode()).hexdigest()
    return {"type": kind, "path": path, "size": len(content or b""), "oid": oid}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as `datasets` uses."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path.startswith(f"/datasets/{NAME}/resolve/"):
            self.file(path.split("/resolve/")[1].partition("/")[2])
        elif path.startswith(f"/api/datasets/{NAME}/tree/"):
            self.tree(path.split("/tree/")[1].partition("/")[2])
        elif path == f"/api/datasets/{NAME}" or path.startswith(f"/api/datasets/{NAME}/revision/"):
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": NAME, "sha": COMMIT, "private": False, "gated": False, "tags": []}
            self.answer(json.dumps(info | {"siblings": siblings}).encode())
        else:
            self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

    def file(self, name: str) -> None:
        if name not in FILES:
            return self.answer(b"{}", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        etag = f'"{_entry(name, FILES[name])["oid"]}"'
        return self.answer(FILES[name], ETag=etag, X_Repo_Commit=COMMIT)

    def tree(self, folder: str) -> None:
        entries = {}
        for name, content in FILES.items():
            inside = name.removeprefix(f"{folder}/") if folder else name
            if folder and inside == name:
                continue
            first, _, rest = inside.partition("/")
            path = f"{folder}/{first}" if folder else first
            entries[path] = _entry(path, None if rest else content)
        self.answer(json.dumps(list(entries.values())).encode())


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def ask(home: Path, questions: list[str], **variables: str) -> list[str]:
    """Answers of a fresh process: the libraries read their settings when they are imported."""
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"} | variables
    done = subprocess.run(
        [sys.executable, "-c", ASK, *questions],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.splitlines()


def test_a_dataset_of_the_hub_is_read_and_found_again_offline(
    tmp_path: Path, endpoint: str
) -> None:
    questions = [NAME, f"{NAME}:train", f"{NAME}:test", f"{NAME}:tset", "someone/else:train"]
    questions += [f"{NAME}::small", f"{NAME}:train:small", f"{NAME}:train:smal"]
    answers = ask(tmp_path, questions, HF_ENDPOINT=endpoint)
    splits, train, test, misspelt, unknown, *subsets = answers
    assert subsets[:2] == ["('train_prefs',)", "5"]
    assert subsets[2] == (
        f"DataError {NAME} (hub) has several configurations: default, small. Name one as "
        "data.subset."
    )
    assert splits == "('test', 'train')"
    assert (train, test) == ("20", "5")
    assert misspelt == (
        f"DataError {NAME} has no split 'tset' (did you mean 'test'?); its splits: test, train."
    )
    assert unknown.startswith("DataError 'someone/else' is no file or folder here and no dataset")

    questions = [f"{NAME}:test:default", f"{NAME}:test", "someone/else:train"]
    cached, several, gone = ask(tmp_path, questions, HF_HUB_OFFLINE="1")
    assert cached == "5"
    assert several == subsets[2]
    assert gone.startswith("EnvironmentProblem 'someone/else' is no file or folder here, and the")


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    answers = ask(tmp_path, ["jondurbin/truthy-dpo-v0.1:train"], HF_ENDPOINT="http://127.0.0.1:9")
    assert len(answers) == 1
    assert answers[0].startswith("EnvironmentProblem 'jondurbin/truthy-dpo-v0.1' is no file")
    assert "Copy the dataset into a folder" in answers[0]
