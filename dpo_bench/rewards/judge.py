"""A judge, which says which of two responses to a prompt is better.

Every pair is shown in both orders, because judges favor a place (Zheng et al. 2023,
arXiv:2306.05685); a response wins when it is preferred in both, and everything else is a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dpo_bench.progress import Progress, quiet
from dpo_bench.rewards.judge_client import JudgeClient
from dpo_bench.rewards.judge_reply import Answer
from dpo_bench.rewards.judge_text import VERSION, Verdict, question, read_verdict
from dpo_bench.storage import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.experiment.config import Evaluation


@dataclass(frozen=True, slots=True)
class Cost:
    """What judging took.

    Attributes:
        requests: questions, each pair in both orders, equal ones once.
        asked: of these, asked now; the others had been answered before.
        failures: questions without a verdict: no answer, or one that is no verdict.
        input_tokens: of all questions, as the endpoint counted; None where it did not say.
        output_tokens: likewise of the answers.
        own_temperature: answers that were given at the endpoint's own temperature, not at 0.
    """

    requests: int
    asked: int
    failures: int
    input_tokens: int | None
    output_tokens: int | None
    own_temperature: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome of a list of pairs; all arrays of shape [pair].

    Attributes:
        wins: 1 where ours wins, 0 where theirs does, .5 for a tie; NaN without a verdict.
        agreed: 1 where both orders say the same, else 0; NaN without a verdict.
        places: share of the two verdicts that favor the response shown first: .5 where the place
            does not matter; NaN without a verdict.
        cost: what it took.
    """

    wins: NDArray[np.float64]
    agreed: NDArray[np.float64]
    places: NDArray[np.float64]
    cost: Cost


@dataclass(frozen=True)
class Judge:
    """A judge and what identifies it.

    Attributes:
        name: as given in the experiment.
        identity: model, endpoint, question and limits; part of every trial's identity. Not the key.
        criterion: what it is told to prefer.
        client: who is asked.
    """

    name: str
    identity: str
    criterion: str
    client: JudgeClient

    def compare(
        self,
        prompts: Sequence[str],
        ours: Sequence[str],
        theirs: Sequence[str],
        progress: Progress = quiet,
    ) -> Judgement:
        """Judge pairs of responses, each in both orders.

        Raises:
            EnvironmentProblem: the endpoint refuses the key, or does not know the model.
            TrialError: too many questions have no answer, or no verdict in it.
        """
        pairs = list(zip(prompts, ours, theirs, strict=True))
        forward = [question(self.criterion, prompt, own, other) for prompt, own, other in pairs]
        backward = [question(self.criterion, prompt, other, own) for prompt, own, other in pairs]
        answers = self.client.ask([*forward, *backward], progress)
        verdicts = [None if one.reply is None else read_verdict(one.reply) for one in answers]
        cost = _cost([*forward, *backward], answers, verdicts)
        outcome = np.array(
            [
                _outcome(first, second)
                for first, second in zip(
                    verdicts[: len(pairs)], verdicts[len(pairs) :], strict=True
                )
            ]
        ).reshape(-1, 3)
        return Judgement(outcome[:, 0], outcome[:, 1], outcome[:, 2], cost)


def find_judge(model: str, options: Evaluation) -> Judge:
    """The judge that an experiment names.

    Raises:
        ConfigurationError: its address is none, or carries credentials.
        EnvironmentProblem: its package or its key is missing.
    """
    client = JudgeClient(model, options)
    content = {
        "model": model,
        "endpoint": options.judge_base_url.rstrip("/"),
        "criterion": options.judge_criterion,
        "question": VERSION,
        "max_tokens": options.judge_max_tokens,
    }
    name = f"judge:{model}"
    return Judge(name, f"{name} {digest(content)}", options.judge_criterion, client)


def _outcome(forward: Verdict | None, backward: Verdict | None) -> tuple[float, float, float]:
    """Win, agreement and preference for the first place, from the verdicts of both orders."""
    if forward is None or backward is None:
        return math.nan, math.nan, math.nan
    share = {Verdict.FIRST: 1.0, Verdict.SECOND: 0.0, Verdict.TIE: 0.5}
    place = (share[forward] + share[backward]) / 2
    same = share[forward] == 1 - share[backward]
    return (share[forward] if same else 0.5), float(same), place


def _cost(
    questions: Sequence[str], answers: Sequence[Answer], verdicts: Sequence[Verdict | None]
) -> Cost:
    distinct = {
        text: (answer, verdict)
        for text, answer, verdict in zip(questions, answers, verdicts, strict=True)
    }
    given = [answer for answer, _ in distinct.values() if answer.paid or answer.reply is not None]
    return Cost(
        requests=len(distinct),
        asked=sum(answer.paid for answer in given),
        failures=sum(verdict is None for _, verdict in distinct.values()),
        input_tokens=_total([answer.input_tokens for answer in given]),
        output_tokens=_total([answer.output_tokens for answer in given]),
        own_temperature=sum(answer.own_temperature for answer in given if answer.reply is not None),
    )


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
