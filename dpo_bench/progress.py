"""How long-running work tells where it is, and learns that it should stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Loudness = Literal["quiet", "normal", "verbose", "json"]
"""How much is said beside the results."""
Progress = Callable[[str, int, int], None]
"""Called as ``progress(phase, done, total)``; cheap enough to call at every step."""


Tell = Callable[[int, int], None]
"""Called as ``tell(done, total)`` of one phase."""


def tell_nobody(done: int, total: int) -> None:
    """Report nothing."""


TRAINING, SAVING = "training", "saving"
"""Phases of a trainer; the second is told when it saves because it was asked to stop."""


def quiet(phase: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Control:
    """The line between a trial and whoever runs it.

    Attributes:
        progress: told where the trial is.
        should_stop: asked after every training step.
    """

    progress: Progress = quiet
    should_stop: Callable[[], bool] = lambda: False
