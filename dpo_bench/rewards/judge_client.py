"""Asking a judge: patiently, and nothing twice."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from dpo_bench.errors import DamagedError, EnvironmentProblem, StorageError, TrialError
from dpo_bench.progress import Progress, quiet
from dpo_bench.rewards.judge_endpoint import Endpoint
from dpo_bench.rewards.judge_refusal import (
    address_hint,
    connection_problem,
    is_hopeless,
    may_pass,
    refused_parameter,
    wait_asked,
)
from dpo_bench.rewards.judge_reply import KEPT, Answer, ReportedError, read_completion
from dpo_bench.rewards.judge_text import read_verdict
from dpo_bench.storage import cache_root, digest, read_record, write_record

if TYPE_CHECKING:
    from dpo_bench.experiment.config import Evaluation

_LOGGER = logging.getLogger(__name__)
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the second try, and between any two; in between the wait doubles."""
UNLIKELY, MOST_ALONE = 0.01, 3
"""Questions are asked alone until one has a verdict: that so many have none is this unlikely where
no more fail than is allowed; and at most so many."""


class JudgeClient:
    """A model behind an endpoint, with the verdicts that it has given so far.

    Answers with a verdict are kept in the cache, one file each, named by the digest of endpoint,
    model and question; others are asked again. A file is there whole or not at all, and a question
    is locked while it is asked: also after ``kill -9``, and among several workers, no verdict is
    paid for twice.

    Raises:
        ConfigurationError: a base URL that is none, or that carries credentials.
        EnvironmentProblem: the package or the key is missing, or a proxy cannot be used.
    """

    def __init__(self, model: str, options: Evaluation) -> None:
        self.model = model
        self.options = options
        self.endpoint = Endpoint(model, options)
        self._parameters: dict[str, Any] = {
            "temperature": 0,
            "max_tokens": options.judge_max_tokens,
        }
        self._adapting = threading.Lock()
        self._answered = False  # whether the endpoint has given a verdict
        self._warned = False  # of its temperature

    def ask(self, questions: Sequence[str], progress: Progress = quiet) -> list[Answer]:
        """The answer to each question; equal questions are asked once.

        The first ones are asked alone, until one has a verdict: a judge that gives none is found
        before the others are paid.

        Raises:
            EnvironmentProblem: the endpoint refuses the key, or does not know the model.
            TrialError: too many questions have no verdict.
        """
        distinct = list(dict.fromkeys(questions))
        found: dict[str, Answer] = {}
        failed: list[str] = []
        over = threading.Event()
        with (
            self.endpoint.connected() as self._post,
            closing(self._answers(distinct, over)) as answers,
        ):
            for one, answer in answers:
                found[one] = answer
                self._say_temperature(answer)
                self._answered |= answer.paid and not answer.problem
                if answer.problem:
                    failed.append(answer.problem)
                    self._require_few(failed, len(found), len(distinct))
                progress("judging", len(found), len(distinct))
        return [found[one] for one in questions]

    def _require_few(self, failed: Sequence[str], asked: int, count: int) -> None:
        allowed = self.options.judge_failures
        none = not self._answered and allowed ** len(failed) < UNLIKELY
        if none or len(failed) > allowed * count:
            raise TrialError(
                f"judge {self.model}: {len(failed)} of the first {asked} questions (of {count}) "
                "have no verdict, more than evaluation.judge_failures allows; the last: "
                f"{failed[-1]}"
            )

    def _answers(
        self, questions: Sequence[str], over: threading.Event
    ) -> Generator[tuple[str, Answer]]:
        """Each question with its answer as it comes: the first ones alone, then many at once."""
        alone = failed = 0
        pool = ThreadPoolExecutor(self.options.judge_concurrency)
        try:
            while not self._answered and failed < MOST_ALONE and alone < len(questions):
                answer = self._answer(questions[alone], over)
                failed += bool(answer.problem)
                yield questions[alone], answer
                alone += 1
            waiting = {pool.submit(self._answer, one, over): one for one in questions[alone:]}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            over.set()  # whoever waits for another try gives up; what is under way is kept
            pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, question: str, over: threading.Event) -> Answer:
        file = self._file(question)
        if (kept := _read(file)) is not None:
            return kept
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock"), is_singleton=False) as lock:
            if (kept := _read(file)) is not None:  # another worker asked it meanwhile
                return kept
            answer = self._patiently(question, over)
            if not answer.problem:
                write_record(file, {name: getattr(answer, name) for name in KEPT})
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
        """Ask until there is a verdict, no more tries are left, or nobody wants it any more."""
        answer = Answer(None)
        for attempt in range(self.options.judge_retries + 1):
            latest, wanted = self._try(question)
            answer = replace(
                latest,
                # Every answer is paid for, those without a verdict too.
                input_tokens=_sum(answer.input_tokens, latest.input_tokens),
                output_tokens=_sum(answer.output_tokens, latest.output_tokens),
                paid=answer.paid or latest.paid,
            )
            if not answer.again or attempt == self.options.judge_retries:
                break
            if over.wait(_wait(attempt) if wanted is None else wanted):
                break
        return answer

    def _try(self, question: str) -> tuple[Answer, float | None]:
        """One answer, and the seconds that the endpoint wants us to wait before the next try."""
        sent, url, errors = dict(self._parameters), self.endpoint.url, self.endpoint.errors
        wanted = None
        try:
            answer = read_completion(self._post(question, sent))
            return replace(answer, own_temperature="temperature" not in sent), None
        except errors.APIStatusError as error:
            status, body, problem = error.status_code, error.body, _in_words(error)
            wanted = wait_asked(error.response.headers)
        except ReportedError as error:  # said with status 200
            status, body, problem = error.status, error.body, str(error)
        except TimeoutError:
            problem = (
                f"no complete answer from {url} within evaluation.judge_timeout = "
                f"{self.endpoint.seconds:g} seconds"
            )
            return Answer(None, problem=problem, again=True), None
        except errors.APIConnectionError as error:
            problem = self.endpoint.hidden(connection_problem(error, url))
            return Answer(None, problem=problem, again=True), None
        except (errors.OpenAIError, ValueError) as error:
            problem = self.endpoint.hidden(str(error))
            return Answer(None, problem=problem, again=True), None
        if self._adapt(sent, refused_parameter(status, body, problem)):
            return self._try(question)
        problem = self.endpoint.hidden(problem)
        if is_hopeless(status, body):
            hint = address_hint(url) if status == 404 else ""
            raise EnvironmentProblem(f"judge {self.model} at {url}: {problem}{hint}")
        return Answer(None, problem=problem, again=may_pass(status)), wanted

    def _adapt(self, sent: dict[str, Any], refused: str) -> bool:
        """Whether to ask again, without the parameter that the endpoint refuses."""
        if refused not in sent:
            return False
        with self._adapting:
            if refused not in self._parameters:  # changed by another question meanwhile
                return True
            parameters = dict(self._parameters)
            limit = parameters.pop(refused)
            if refused == "max_tokens":
                parameters["max_completion_tokens"] = limit
                _LOGGER.info(
                    "judge %s refuses max_tokens: max_completion_tokens is sent", self.model
                )
            self._parameters = parameters
        return True

    def _say_temperature(self, answer: Answer) -> None:
        """Warn of answers at the endpoint's own temperature, whenever they were given."""
        if answer.own_temperature and not self._warned:
            self._warned = True
            _LOGGER.warning(
                "judge %s refuses temperature = 0: it judges at its own temperature, so that"
                " another run may get other verdicts",
                self.model,
            )


def _read(file: Path) -> Answer | None:
    """An answer that is kept; None where there is none that is whole: then it is asked again."""
    try:
        answer = Answer(**read_record(file, older=KEPT))
        return answer if read_verdict(str(answer.reply or "")) is not None else None
    except DamagedError:
        _LOGGER.warning("a judge's answer in the cache is damaged (%s): asked again", file.name)
    except (FileNotFoundError, StorageError, TypeError):
        pass
    return None


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _sum(first: int | None, second: int | None) -> int | None:
    return second if first is None else first if second is None else first + second


def _wait(attempt: int) -> float:
    """Seconds before the next try, ever longer."""
    # Spread, so that the workers that were refused together do not come back together.
    return float(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
