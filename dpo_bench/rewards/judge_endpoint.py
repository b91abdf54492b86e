"""An OpenAI-compatible endpoint: its address, its key, and requests that end in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

from dpo_bench.addresses import require_plain_url
from dpo_bench.errors import EnvironmentProblem

if TYPE_CHECKING:
    from dpo_bench.experiment.config import Evaluation

INSTALL = "a judge needs the openai package: pip install 'dpo_bench[judge]'"


class Post(Protocol):
    """Asks one question."""

    def __call__(self, question: str, parameters: Mapping[str, Any]) -> bytes:
        """The body of the answer.

        Raises:
            TimeoutError: it was not complete in time, however steadily it came.
            OpenAIError: of `Endpoint.errors`: a refusal, or no connection.
        """


class Endpoint:
    """Where a judge answers.

    Attributes:
        model: the judge's name there.
        url: its address, as given.
        seconds: that a request may take from the connection to the last byte, of an error too. The
            transport's own limits bound only the wait for the next byte; requests run on an event
            loop, where they can be given up wherever they are.
        errors: the openai package, whose exceptions a request raises.

    Raises:
        ConfigurationError: a base URL that is none, or that carries credentials.
        EnvironmentProblem: the package or the key is missing, or a proxy cannot be used.
    """

    def __init__(self, model: str, options: Evaluation) -> None:
        self.model = model
        self.url = options.judge_base_url
        self.seconds = options.judge_timeout
        self._key = _key(options)
        require_plain_url(self.url, "evaluation.judge_base_url", ["api-version"])
        try:
            import openai
        except ImportError as error:
            raise EnvironmentProblem(f"evaluation.reward = judge:{model}: {INSTALL}") from error
        self.errors: Any = openai
        self._open()  # to tell now what is wrong

    @contextlib.contextmanager
    def connected(self) -> Iterator[Post]:
        """While this is open, questions can be asked through what it gives, from any thread."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="judge", daemon=True)
        thread.start()
        client = self._open()

        def post(question: str, parameters: Mapping[str, Any]) -> bytes:
            request = self._request(client, question, parameters)
            return asyncio.run_coroutine_threadsafe(request, loop).result()

        try:
            yield post
        finally:
            asyncio.run_coroutine_threadsafe(client.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _request(self, client: Any, question: str, parameters: Mapping[str, Any]) -> bytes:
        messages = [{"role": "user", "content": question}]
        async with asyncio.timeout(self.seconds):
            response = await client.chat.completions.with_raw_response.create(
                model=self.model, messages=messages, **parameters
            )
            body: bytes = response.content
            return body

    def hidden(self, text: str) -> str:
        """A text in a line, without the key, which an endpoint may repeat."""
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:300]

    def _open(self) -> Any:
        url, _, query = self.url.partition("?")
        key = self._key or "none"
        try:
            return self.errors.AsyncOpenAI(
                base_url=url,
                api_key=key,
                default_query=dict(parse_qsl(query)),
                default_headers={"api-key": key} if query else {},  # Azure's name for it
                max_retries=0,  # ours also cover answers that are no answers, and are counted
                timeout=None,
            )
        except (ImportError, ValueError) as error:  # socks without its package, an unknown scheme
            told = self.hidden(f"{type(error).__name__}: {error}")
            raise EnvironmentProblem(
                f"judge {self.model}: the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names "
                "cannot be used; unset it, set NO_PROXY, or for a socks proxy pip install socksio "
                f"({told})."
            ) from None


def _key(options: Evaluation) -> str:
    name = options.judge_key_variable
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise EnvironmentProblem(
            f"the judge's key is expected in the environment variable {name}, which is not set; "
            'for an endpoint that needs none set evaluation.judge_key_variable = "".'
        )
    if not key.isascii() or not key.isprintable():
        raise EnvironmentProblem(
            f"the judge's key in the environment variable {name} has a line break or a letter that "
            "no key can have: copy it again, alone and in one line."
        )
    return key
