"""Asking an OpenAI-compatible endpoint: patiently, never twice, and never telling its key."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock

from dpo_bench.errors import ConfigurationError, EnvironmentProblem, TrialError
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import cache_root, digest, write_json

if TYPE_CHECKING:
    from dpo_bench.experiment.config import Evaluation

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the second try, and between any two; in between the wait doubles."""
INSTALL = "a judge needs the openai package: pip install 'dpo_bench[judge]'"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question.

    Attributes:
        reply: the model's text; None when there is none.
        input_tokens: that the endpoint counted, None when it did not say.
        output_tokens: likewise.
        problem: why there is no reply; empty when there is one.
        paid: whether it was asked now, and not found in the cache.
    """

    reply: str | None
    input_tokens: int | None = None
    output_tokens: int | None = None
    problem: str = ""
    paid: bool = False


class JudgeClient:
    """A model behind an endpoint, with the answers that it has given so far.

    Answers are kept in the cache, one file each, named by the digest of endpoint, model and
    question. A file is there whole or not at all, and a question is locked while it is asked: also
    after ``kill -9``, and among several workers, no answer is paid for twice.

    Raises:
        ConfigurationError: a base URL that is none, or that carries credentials.
        EnvironmentProblem: the package or the key is missing.
    """

    def __init__(self, model: str, options: Evaluation) -> None:
        self.model = model
        self.options = options
        self.key = _key(options)
        _require_plain_url(options.judge_base_url)
        try:
            import openai
        except ImportError as error:
            raise EnvironmentProblem(f"evaluation.reward = judge:{model}: {INSTALL}") from error
        self._errors = openai
        self._client = openai.OpenAI(
            base_url=options.judge_base_url,
            api_key=self.key or "none",
            max_retries=0,  # ours also cover answers that are no answers, and are counted
            timeout=options.judge_timeout,
        )

    def ask(self, questions: Sequence[str], progress: Progress = quiet) -> list[Answer]:
        """The answer to each question; equal questions are asked once.

        Raises:
            EnvironmentProblem: the endpoint refuses the key, or does not know the model.
            TrialError: too many questions have no answer.
        """
        distinct = list(dict.fromkeys(questions))
        allowed = self.options.judge_failures * len(distinct)
        found: dict[str, Answer] = {}
        failed: list[str] = []
        over = threading.Event()
        pool = ThreadPoolExecutor(self.options.judge_concurrency)
        try:
            waiting = {pool.submit(self._answer, one, over): one for one in distinct}
            for future in as_completed(waiting):
                answer = found[waiting[future]] = future.result()
                if answer.problem:
                    failed.append(answer.problem)
                if len(failed) > allowed:
                    raise TrialError(
                        f"judge {self.model}: {len(failed)} of {len(distinct)} requests failed, "
                        f"more than evaluation.judge_failures allows; the last: {failed[-1]}"
                    )
                progress("judging", len(found), len(distinct))
        finally:
            over.set()  # whoever waits for another try gives up; what is under way is kept
            pool.shutdown(wait=True, cancel_futures=True)
        return [found[one] for one in questions]

    def _answer(self, question: str, over: threading.Event) -> Answer:
        file = self._file(question)
        if (kept := _read(file)) is not None:
            return kept
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock"), is_singleton=False) as lock:
            if (kept := _read(file)) is not None:  # another worker asked it meanwhile
                return kept
            answer = self._patiently(question, over)
            if answer.reply is not None:
                values = asdict(answer)
                del values["paid"], values["problem"]
                write_json(file, values)
            Path(lock.lock_file).unlink(missing_ok=True)
        return answer

    def _file(self, question: str) -> Path:
        options = self.options
        content = digest(
            {
                "endpoint": options.judge_base_url.rstrip("/"),
                "model": self.model,
                "max_tokens": options.judge_max_tokens,
                "temperature": 0,
                "question": question,
            }
        )
        return cache_root() / "judged" / content[:2] / f"{content}.json"

    def _patiently(self, question: str, over: threading.Event) -> Answer:
        """Ask until there is an answer, no more tries are left, or nobody wants it any more."""
        problem = ""
        for attempt in range(self.options.judge_retries + 1):
            wanted = None
            try:
                return self._once(question)
            except self._errors.APIStatusError as error:
                problem = self._told(error)
                if error.status_code in (401, 403, 404):
                    raise EnvironmentProblem(
                        f"judge {self.model} at {self.options.judge_base_url}: {problem}"
                    ) from None
                if error.status_code < 500 and error.status_code not in (408, 409, 425, 429):
                    return Answer(None, problem=problem)
                wanted = error.response.headers.get("retry-after")
            except self._errors.APIConnectionError as error:  # also a time-out
                problem = self._told(error)
            except (self._errors.OpenAIError, ValueError, AttributeError, LookupError, TypeError):
                problem = "the answer is no chat completion"
            if attempt < self.options.judge_retries and over.wait(_wait(attempt, wanted)):
                break
        return Answer(None, problem=problem)

    def _once(self, question: str) -> Answer:
        completion = self._client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=self.options.judge_max_tokens,
        )
        reply = completion.choices[0].message.content
        usage = completion.usage
        return Answer(
            "" if reply is None else str(reply),
            None if usage is None else int(usage.prompt_tokens),
            None if usage is None else int(usage.completion_tokens),
            paid=True,
        )

    def _told(self, error: Exception) -> str:
        """An error in a line, without the key, which an endpoint may repeat."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return (text.replace(self.key, "***") if self.key else text)[:300]


def _key(options: Evaluation) -> str:
    name = options.judge_key_variable
    if not name:
        return ""
    if key := os.environ.get(name, "").strip():
        return key
    raise EnvironmentProblem(
        f"the judge's key is expected in the environment variable {name}, which is not set; for an "
        'endpoint that needs none set evaluation.judge_key_variable = "".'
    )


def _require_plain_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"evaluation.judge_base_url = {url!r} is no http(s) address.")
    if parts.username or parts.password or parts.query:
        raise ConfigurationError(
            f"evaluation.judge_base_url must carry no credentials (host {parts.hostname}): it is "
            "written into the results; put the key into the variable evaluation.judge_key_variable."
        )


def _read(file: Path) -> Answer | None:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Answer(**values)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError):
        return None  # damaged on disk: asked again


def _wait(attempt: int, wanted: str | None) -> float:
    """Seconds before the next try: as long as the endpoint wants, else ever longer."""
    try:
        return min(max(float(wanted or ""), 0.0), LONGEST_WAIT)
    except ValueError:
        pass
    # Spread, so that the workers that were refused together do not come back together.
    return float(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
