"""A server that speaks vLLM's completions over a real model, in a thread of the tests' process."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch


class Server(ThreadingHTTPServer):
    """Completions of one model, and of adapters over it.

    Attributes:
        url: of its API.
        requests: what it was sent, path and body.
        gives_ids: whether it answers with token ids, as vLLM does from 0.10.2 on.
        keeps_end: whether the end token stands among them.
        takes_adapters: whether it has vLLM's calls for them.
        failures: how many of the next requests fail with status 503.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.models: dict[str, Any] = {"served": model}
        self.lock = threading.Lock()
        self.requests: list[tuple[str, Any]] = []
        self.gives_ids = True
        self.keeps_end = True
        self.takes_adapters = True
        self.failures = 0

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and answer to one request."""
        with self.lock:  # transformers' generate draws from one generator
            self.requests.append((path, body))
            if self.failures:
                self.failures -= 1
                return 503, "busy"
            if path == "/v1/models":
                adapters = [{"id": name, "parent": "served"} for name in [*self.models][1:]]
                return 200, {"data": [{"id": "served"}, *adapters]}
            if path.endswith("lora_adapter") and not self.takes_adapters:
                return 404, {"detail": "Not Found"}
            if path == "/v1/load_lora_adapter":
                from peft import PeftModel

                base = copy.deepcopy(self.models["served"])
                with warnings.catch_warnings():
                    # peft asks a model for what transformers now calls by another name.
                    warnings.simplefilter("ignore", FutureWarning)
                    adapted = PeftModel.from_pretrained(base, Path(body["lora_path"]))
                self.models[body["lora_name"]] = adapted.eval()
                return 200, "Success: LoRA adapter added"
            if path == "/v1/unload_lora_adapter":
                del self.models[body["lora_name"]]
                return 200, "Success: LoRA adapter removed"
            if body["model"] not in self.models:
                return 404, {"message": f"no model {body['model']}"}
            return 200, self.completion(body)

    def completion(self, body: Any) -> Any:
        """What vLLM answers, of transformers' own sampling."""
        prompt, model = torch.tensor([body["prompt"]]), self.models[body["model"]]
        torch.manual_seed(body["seed"])
        with torch.no_grad():
            found = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                max_new_tokens=body["max_tokens"],
                temperature=body["temperature"],
                top_p=body["top_p"],
                top_k=0,
                eos_token_id=body["stop_token_ids"],
                pad_token_id=0,
            )
            logps = model(input_ids=found).logits[0].log_softmax(-1)
        tokens = found[0, prompt.shape[1] :].tolist()
        numbers = [float(logps[prompt.shape[1] - 1 + at, token]) for at, token in enumerate(tokens)]
        ended = tokens[-1] in body["stop_token_ids"]
        choice: dict[str, Any] = {
            "text": "never read",
            "finish_reason": "stop" if ended else "length",
            "stop_reason": tokens[-1] if ended else None,
            "logprobs": {"token_logprobs": numbers},
        }
        if ended and not self.keeps_end:
            tokens = tokens[:-1]
        if self.gives_ids and body.get("return_token_ids"):
            choice |= {"token_ids": tokens, "prompt_token_ids": body["prompt"]}
        return {"choices": [choice]}


class Handler(BaseHTTPRequestHandler):
    """Hands requests to the server."""

    server: Server

    def do_GET(self) -> None:
        self._reply(*self.server.answer(self.path, None))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._reply(*self.server.answer(self.path, body))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _reply(self, status: int, answer: Any) -> None:
        text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextlib.contextmanager
def serving(model: Any) -> Iterator[Server]:
    """A running server of a model of transformers."""
    with Server(model) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
