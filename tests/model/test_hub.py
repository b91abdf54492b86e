"""Hub models, fetched by the real client from a small hub on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMIT = "a" * 40
CODE = """
import sys
from dpo_bench.errors import DpoBenchError
from dpo_bench.experiment.config import World
from dpo_bench.model.source import resolve_model
told = []
try:
    found = resolve_model(sys.argv[1], world=World(), progress=lambda *step: told.append(step))
except DpoBenchError as error:
    print(error)
    sys.exit(error.exit_code)
steps = [step[1:] for step in told if step[0] == "downloading " + sys.argv[1]]
assert steps[0] == (0, 1) and steps[-1] == (1, 1) and all(n <= total for _, n, total in told), told
print(found.path, found.digest, found.label)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what the client asks of the hub for the models in ``models``."""

    models: dict[str, dict[str, bytes]]
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        owner_name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if owner_name == "owner/gated":
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif owner_name not in self.models:
            self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/"):
            self.send(200, json.dumps(self.about(owner_name, path)).encode(), {})
        else:
            content = self.models[owner_name][path.rsplit("/", 1)[1]]
            tag = hashlib.sha256(content).hexdigest()
            self.send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def about(self, name: str, path: str) -> object:
        files = self.models[name]
        if "/tree/" in path:
            return [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in files.items()
            ]
        return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(llama_folder: Path) -> Iterator[str]:
    """A hub with two models; gives its address."""
    files = {file.name: file.read_bytes() for file in llama_folder.iterdir()}
    extra = {"README.md": b"#", "training_args.bin": b"pickle", "onnx/model.safetensors": b"x"}
    extra["original/vocabulary.tiktoken"] = b"x"
    old = {name: content for name, content in files.items() if name != "model.safetensors"}
    Hub.models = {
        "owner/model": {**files, "pytorch_model.bin": b"pickle", **extra},
        "owner/old": {**old, "pytorch_model.bin": b"pickle"},
    }
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def resolve(spec: str, endpoint: str, home: Path, **changes: str) -> tuple[int, str]:
    """Exit code and output of a process that resolves a model against a hub."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        **changes,
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE, spec],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.strip()


def test_a_hub_model_is_fetched_once_and_found_without_a_network(
    hub: str, llama_folder: Path, tmp_path: Path
) -> None:
    from dpo_bench.experiment.config import World
    from dpo_bench.model.source import resolve_model

    code, output = resolve("owner/model", hub, tmp_path)

    assert code == 0, output
    path, digest, label = output.split()
    assert label == "owner/model"
    assert digest == resolve_model(str(llama_folder), world=World()).digest
    assert {file.name for file in Path(path).iterdir()} == {
        file.name for file in llama_folder.iterdir()
    }, "no notes, no pickles, no other formats"
    assert resolve("owner/model", hub, tmp_path, HF_HUB_OFFLINE="1") == (0, output)


def test_pickles_are_fetched_where_there_is_nothing_else(hub: str, tmp_path: Path) -> None:
    code, output = resolve("owner/old", hub, tmp_path)

    assert code == 0, output
    assert (Path(output.split()[0]) / "pytorch_model.bin").read_bytes() == b"pickle"


def test_an_unknown_model_is_explained(hub: str, tmp_path: Path) -> None:
    code, output = resolve("owner/nothing", hub, tmp_path)

    assert code == 3
    assert output.startswith("owner/nothing is no folder here and no model on the hub")
    assert output.count("\n") == 0


def test_a_gated_model_is_explained(hub: str, tmp_path: Path) -> None:
    code, output = resolve("owner/gated", hub, tmp_path)

    assert code == 3
    assert output.startswith("owner/gated is gated: accept its terms")


def test_a_hub_out_of_reach_is_explained(tmp_path: Path) -> None:
    for options in ({}, {"HF_HUB_OFFLINE": "1"}):
        code, output = resolve("owner/model", "http://127.0.0.1:9", tmp_path, **options)

        assert code == 3
        assert "the hub cannot be reached" in output
        assert output.endswith("To use a copy of your own, give the path of its folder.")
        assert output.count("\n") == 0


@pytest.mark.slow
def test_an_adapter_of_the_hub_is_merged_into_its_base(hub: str, tmp_path: Path) -> None:
    from dpo_bench.experiment.config import LoRA
    from dpo_bench.model.choose_backend import choose_backend
    from dpo_bench.model.load import load_model
    from dpo_bench.model.lora import reset_adapter, save_adapter, with_adapter

    plain = tmp_path / "plain"
    plain.mkdir()
    for name, content in Hub.models["owner/model"].items():
        if "/" not in name:
            (plain / name).write_bytes(content)
    policy = with_adapter(choose_backend(load_model(plain)), LoRA(), "owner/model")
    reset_adapter(policy.model, 0)
    save_adapter(policy.model, tmp_path / "adapter", policy.model.state_dict())
    Hub.models["owner/adapter"] = {
        file.name: file.read_bytes() for file in (tmp_path / "adapter").iterdir()
    }

    code, output = resolve("owner/adapter", hub, tmp_path)

    assert code == 0, output
    path, _, label = output.split()
    assert label == "owner/adapter"
    merged, base = load_model(Path(path)).state_dict(), load_model(plain).state_dict()
    assert all((merged[name] == value).all() for name, value in base.items()), "B is zero"
