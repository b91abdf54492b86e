"""Ends a trial early whose policy is already too far from the reference to matter to a search.

A search tries settings of which some lead far beyond the largest KL that is sought. Most of these
are there long before training ends, so the KL is estimated on the way and the trial is ended where
it is beyond a limit for sure.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.progress import Progress
from dpo_bench.storage import read_record, write_record

if TYPE_CHECKING:
    from dpo_bench.evaluation.policy import Evaluator
    from dpo_bench.model.logprobs import LogprobBackend

CHECKS = "kl_checks.json"
SHARES = (0.25, 0.5)
"""Of the steps, after which the KL is looked at: earlier the learning rate still rises, later too
little is left to be saved."""
PROMPTS = 32
"""Held-out prompts of a look, one response each.

The limit lies a multiple beyond what is sought, so a rough estimate does; and a look must cost
little beside the steps that it may save.
"""
STANDARD_ERRORS = 2.0
"""So far must an estimate be above the limit: by chance alone hardly any trial is ended."""


@dataclass(frozen=True, slots=True)
class KLCheck:
    """One look at the KL.

    Attributes:
        step: steps made by then.
        kl: estimate, nats; None where it is not finite.
        se: its standard error over prompts; None for a single prompt.
        seconds: that the look took.
    """

    step: int
    kl: float | None
    se: float | None
    seconds: float


def is_beyond(kl: float | None, se: float | None, limit: float | None) -> bool:
    """Whether an estimate is above a limit by more than its own error.

    >>> is_beyond(20.0, 1.5, 16.0), is_beyond(20.0, 2.5, 16.0), is_beyond(20.0, 1.5, None)
    (True, False, False)
    """
    if kl is None or se is None or limit is None:
        return False
    return kl - STANDARD_ERRORS * se > limit


class StoppedEarlyError(Exception):
    """A trial is ended because its KL is beyond the limit: a result, no failure.

    Attributes:
        check: the look that ended it.
        steps: that the whole trial would have had.
        limit: nats.
    """

    def __init__(self, check: KLCheck, steps: int, limit: float) -> None:
        super().__init__(
            f"KL {check.kl:.3g} (standard error {check.se:.2g}) after {check.step} of {steps}"
            f" steps: beyond the limit of {limit:g}"
        )
        self.check = check
        self.steps = steps
        self.limit = limit

    def record(self, seconds: float) -> dict[str, Any]:
        """What the manifest says of it.

        Args:
            seconds: of training until then.
        """
        return {
            "step": self.check.step,
            "kl": self.check.kl,
            "se": self.check.se,
            "limit": self.limit,
            "steps": self.steps,
            "seconds": seconds,
        }


class EarlyStop:
    """Looks at the KL of a policy that is being trained.

    What was seen is kept beside the trainer's checkpoint, so that a trial that is resumed behind a
    look neither makes it again nor forgets it.

    Args:
        evaluator: estimates.
        policy: that is trained.
        folder: where looks are kept until the trial ends.
        limit: nats; None: nothing is looked at.
        progress: told that training is under way.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        policy: LogprobBackend,
        *,
        folder: Path,
        limit: float | None,
        progress: Progress,
    ) -> None:
        self.evaluator = evaluator
        self.policy = policy
        self.file = folder / CHECKS
        self.limit = limit
        self.progress = progress
        self.checks = self._read() if limit is not None else {}

    @property
    def seconds(self) -> float:
        """Time that all looks took."""
        return sum(check.seconds for check in self.checks.values())

    def after_step(self, done: int, total: int) -> None:
        """Look when it is time.

        Raises:
            StoppedEarlyError: the KL is beyond the limit.
        """
        if self.limit is None or done == total:
            return
        if done in {math.ceil(share * total) for share in SHARES} and done not in self.checks:
            self.checks[done] = self._look(done, total)
            write_record(self.file, {"checks": [asdict(one) for one in self.checks.values()]})
        for check in self.checks.values():
            if is_beyond(check.kl, check.se, self.limit):
                raise StoppedEarlyError(check, total, self.limit)

    def _look(self, done: int, total: int) -> KLCheck:
        started = time.monotonic()
        kl, se = self.evaluator.estimate_kl(
            self.policy,
            PROMPTS,
            lambda _phase, _done, _total: self.progress("training", done, total),
        )
        return KLCheck(done, _finite(kl), _finite(se), time.monotonic() - started)

    def _read(self) -> dict[int, KLCheck]:
        if not self.file.is_file():
            return {}
        found = read_record(self.file)["checks"]
        return {check["step"]: KLCheck(**check) for check in found}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
