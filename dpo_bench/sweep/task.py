"""What a worker is asked to do."""

from __future__ import annotations

from typing import NamedTuple

from dpo_bench.experiment import PlannedTrial


class Task(NamedTuple):
    """A trial to be done.

    Attributes:
        trial: what to do.
        identity: of the trial.
        kl_limit: stop it early where its KL along training is beyond this, nats; None: never.
    """

    trial: PlannedTrial
    identity: str
    kl_limit: float | None = None
