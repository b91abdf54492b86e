"""What reaches a terminal, from whomever it comes: nothing that the terminal would obey.

A loss's message, a path or a name may hold control characters, which move the cursor, rename the
window or hide text. They are shown, not sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from dpo_bench.wording import visible

MOST_CHARACTERS = 600
"""Of a line of a complaint; of a longer one the middle is left out."""


class Terminal(Console):
    """A console that writes its own control characters and no others."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The pieces of what is printed, their texts made visible."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def say(console: Console, text: str) -> None:
    """Print a line as it is: no markup in it, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def complaint(text: str) -> str:
    """An error's message as it is shown: visible, and no line longer than can be read.

    >>> len(complaint("unknown loss " + 5000 * "x" + ": see the list"))
    601
    """
    return "\n".join(map(_shortened, visible(text).splitlines()))


def _shortened(line: str) -> str:
    half = MOST_CHARACTERS // 2
    return line if len(line) <= MOST_CHARACTERS else f"{line[:half]}…{line[-half:]}"


def complain(text: str) -> None:
    """Say on stderr what is wrong."""
    print(f"dpo-bench: {complaint(text)}", file=sys.stderr)
