"""What the program has to say beside its results: through `logging`, to whoever listens.

Any part says it with its module's logger, at the level that fits: INFO what was decided (a model
that is padded rather than packed), WARNING what a reader of the results must know. Workers send
their notes to the sweep, which shows them and keeps them in its record for the report.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

LOGGER = logging.getLogger("dpo_bench")


class Note(NamedTuple):
    """Something that was said.

    Attributes:
        level: of `logging`, e.g. ``INFO``.
        text: one line.
        is_passing: whether it is of this run alone, such as damage that was mended, and says
            nothing of the results; logged with ``extra={"passing": True}``.
    """

    level: str
    text: str
    is_passing: bool = False

    def record(self) -> dict[str, str]:
        """As it is kept in a sweep's record."""
        return {"level": self.level, "text": self.text}

    @property
    def is_warning(self) -> bool:
        """Whether a reader of the results must know it."""
        return logging.getLevelNamesMapping()[self.level] >= logging.WARNING


class _Handler(logging.Handler):
    def __init__(self, say: Callable[[Note], None], level: int) -> None:
        super().__init__(level)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Pass it on, in one line unless it is for whoever looks for a fault."""
        text = record.getMessage()
        if record.levelno > logging.DEBUG:
            text = " ".join(text.split())
        self.say(Note(record.levelname, text, getattr(record, "passing", False)))


@contextlib.contextmanager
def heard(say: Callable[[Note], None], level: int = logging.INFO) -> Iterator[None]:
    """While this is open, what the program says from a level on is passed on, and nowhere else.

    Args:
        say: is given each note.
        level: of `logging`.
    """
    handler = _Handler(say, level)
    before = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]
