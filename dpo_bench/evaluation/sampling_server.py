"""Responses from a server that speaks OpenAI's completions as vLLM does: token ids in and out.

Text would not do: read again by the tokenizer it may have other tokens than were sampled, and so
another KL. An adapter is given to the server as a folder that both can read
(``/v1/load_lora_adapter``); weights that are trained whole cannot be given to it.

Every response has a seed of its own, which depends on the plan, its prompt and its number. But the
server's random numbers are its own: two policies do not draw alike where they are alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dpo_bench.addresses import require_plain_url
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.logprobs import token_logps
from dpo_bench.model.lora import save_adapter
from dpo_bench.model.sampling import Response, SamplingPlan
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import cache_root

if TYPE_CHECKING:
    from dpo_bench.model.logprob_backends import LogprobBackend

AT_ONCE = 64
"""Requests under way: the server puts them into one batch."""
TRIES = 4
WAIT = 1.0
"""Seconds before the second try; twice as many before each further one."""
SECONDS = 600.0
"""That one request may take."""
CHECKED = 8
"""Responses whose log-probs are compared with this program's own."""
SAME_WEIGHTS = 0.1
"""Mean difference of log-probs, nats a token, above which a server must hold other weights: what
bf16 rounds makes some hundredths."""
ENDED = {"stop", "length"}


class ServerSampler:
    """Samples at a server; see `dpo_bench.evaluation.engines.Engine`.

    Args:
        url: of its API, such as ``http://localhost:8000/v1``.

    Raises:
        ConfigurationError: it is no such address.
    """

    def __init__(self, url: str) -> None:
        require_plain_url(url, "evaluation.sampler")
        self.url = url.rstrip("/")

    def __call__(
        self,
        backend: LogprobBackend,
        prompts: Sequence[Sequence[int]],
        plan: SamplingPlan,
        progress: Progress = quiet,
    ) -> list[Response]:
        """Sample; the first responses are scored here too, to see that the weights are the same.

        Raises:
            EnvironmentProblem: the server does not answer, gives no token ids, or has other
                weights.
        """
        if not backend.ranks.alone:
            raise EnvironmentProblem(
                "evaluation.sampler = openai needs a policy that one process holds: set "
                "training.gpus_per_trial = 1, or evaluation.sampler = builtin."
            )
        part = range(plan.samples) if plan.part is None else plan.part
        rows = [(index, sample) for index in range(len(prompts)) for sample in part]
        found: list[tuple[Response, list[float]]] = []
        with self._served(backend) as model, ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = [
                pool.submit(self._respond, model, list(map(int, prompts[row[0]])), row, plan)
                for row in rows
            ]
            try:
                for done, job in enumerate(jobs, start=1):
                    found.append(job.result())
                    progress("sampling", done, len(rows))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._require_same_weights(backend, prompts, found[:: max(1, len(found) // CHECKED)])
        return [response for response, _ in found]

    def _respond(
        self, model: str, prompt: list[int], row: tuple[int, int], plan: SamplingPlan
    ) -> tuple[Response, list[float]]:
        """One response, with the server's log-probs of its tokens."""
        index, sample = row
        seeds = np.random.SeedSequence([plan.seed, *plan.stream.encode(), 0, index, sample])
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": plan.max_new_tokens,
            "temperature": plan.temperature,
            "seed": int(seeds.generate_state(1)[0] >> 1),
            "stop_token_ids": sorted(plan.end_tokens),
            "logprobs": 1,
            "return_token_ids": True,
            # What a model's generation_config.json sets where nothing is said.
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
        choice = self._post("completions", body)["choices"][0]
        tokens, logps = choice.get("token_ids"), (choice.get("logprobs") or {})
        numbers = logps.get("token_logprobs")
        if tokens is None or numbers is None:
            raise EnvironmentProblem(
                f"{self.url} does not give the token ids of its answers with their log-probs "
                "(return_token_ids, logprobs), as vLLM from 0.10.2 on does: text that is tokenized "
                "again has another KL. Take such a server, or evaluation.sampler = builtin."
            )
        read = choice.get("prompt_token_ids")
        if read is not None and list(read) != prompt:
            raise EnvironmentProblem(
                f"{self.url} changes the prompt's token ids: {prompt[:8]} ... became {read[:8]} ..."
            )
        if choice.get("finish_reason") not in ENDED:
            raise EnvironmentProblem(
                f"{self.url} ended a response by {choice.get('finish_reason')!r}, not by an end "
                "token or the limit"
            )
        return _response(row, tokens, choice, plan), list(numbers)

    @contextlib.contextmanager
    def _served(self, backend: LogprobBackend) -> Iterator[str]:
        """While this is open the server has the policy by this name."""
        base = self._base()
        if not hasattr(backend.model, "peft_config"):
            yield base
            return
        weights = {
            name: value.detach().cpu()
            for name, value in backend.model.state_dict().items()
            if ".lora_" in name
        }
        content = hashlib.sha256()
        for value in weights.values():
            content.update(value.float().numpy().tobytes())
        name = f"dpo_bench-{content.hexdigest()[:16]}"
        folder = cache_root() / "served-adapters" / name
        save_adapter(backend.model, folder, weights)
        try:
            self._post("load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
            try:
                yield name
            finally:
                with contextlib.suppress(EnvironmentProblem):
                    self._post("unload_lora_adapter", {"lora_name": name})
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _base(self) -> str:
        """The name of the one model that is served."""
        models = self._get("models")["data"]
        names = [one["id"] for one in models if not one.get("parent")]
        if len(names) != 1:
            raise EnvironmentProblem(
                f"{self.url} serves {', '.join(names) or 'no model'}: let it serve the reference "
                "alone."
            )
        return str(names[0])

    def _require_same_weights(
        self,
        backend: LogprobBackend,
        prompts: Sequence[Sequence[int]],
        some: Sequence[tuple[Response, list[float]]],
    ) -> None:
        some = [one for one in some if one[0].tokens]
        if not some:
            return
        batch = backend.response_batch(
            [prompts[response.prompt_id] for response, _ in some],
            [response.tokens for response, _ in some],
        )
        with torch.inference_mode():
            ours = token_logps(backend, batch).double().cpu().numpy()
        # The end token that a server leaves out has no number of its own.
        places = np.cumsum([0, *(len(response.tokens) for response, _ in some)])
        pairs = [
            (ours[start : start + len(theirs)], np.asarray(theirs[: len(one.tokens)]))
            for start, (one, theirs) in zip(places, some, strict=False)
        ]
        off = float(np.mean(np.concatenate([np.abs(a[: len(b)] - b) for a, b in pairs])))
        if not off <= SAME_WEIGHTS:
            raise EnvironmentProblem(
                f"{self.url} gives the tokens that it samples other log-probs than the policy has "
                f"here (by {off:.2g} nats a token): it holds other weights. Let it serve the "
                "reference; policies can be given to it only as adapters (training.lora)."
            )

    def _get(self, path: str) -> Any:
        return self._send(urllib.request.Request(f"{self.url}/{path}"))  # noqa: S310 - http

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._send(
            urllib.request.Request(  # noqa: S310 - http
                f"{self.url}/{path}",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
        )

    def _send(self, request: urllib.request.Request) -> Any:
        """The answer, as JSON where it is; a server that is busy or away is asked again."""
        for attempt in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - http
                    text = answer.read()
            except urllib.error.HTTPError as error:
                told = " ".join(error.read().decode(errors="replace").split())[:300]
                if error.code < 500 or attempt == TRIES - 1:
                    raise self._problem(request, f"says {error.code}: {told}") from error
            except (urllib.error.URLError, OSError) as error:
                if attempt == TRIES - 1:
                    raise self._problem(request, f"does not answer: {error}") from error
            else:
                try:
                    return json.loads(text)
                except ValueError:
                    return text.decode(errors="replace")
            time.sleep(WAIT * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def _problem(self, request: urllib.request.Request, reason: str) -> EnvironmentProblem:
        path = request.full_url.removeprefix(f"{self.url}/")
        needed = {
            "completions": (
                ". A server is needed that speaks vLLM's completions, with token ids in and out: "
                "text that is tokenized again has another KL"
            ),
            "load_lora_adapter": (
                ". vLLM takes adapters when it is started with --enable-lora, --max-lora-rank and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and must be able to read the cache's folder"
            ),
        }
        hint = needed.get(path, "") if reason.startswith("says 4") else ""
        return EnvironmentProblem(f"evaluation.sampler: {request.full_url} {reason}{hint}.")


def _response(
    row: tuple[int, int], tokens: Sequence[int], choice: Mapping[str, Any], plan: SamplingPlan
) -> Response:
    """A response whose end token is there where it ended by one, which some servers leave out."""
    ids = tuple(int(token) for token in tokens)
    if choice["finish_reason"] == "stop" and (not ids or ids[-1] not in plan.end_tokens):
        said = choice.get("stop_reason")
        last = said if isinstance(said, int) else min(plan.end_tokens)
        if not isinstance(said, int) and len(plan.end_tokens) != 1:
            raise EnvironmentProblem("the server does not say by which token a response ended")
        ids = (*ids, last)
    return Response(*row, ids, finished=bool(ids) and ids[-1] in plan.end_tokens)
