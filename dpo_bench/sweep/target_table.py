"""How far a search has come, as the terminal shows it: losses x KLs that are sought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

State = Literal["met", "open", "unreachable"]
_MARKS: dict[State, tuple[str, str, str]] = {
    "met": ("green", "\u2713", "+"),
    "open": ("dim", "\u00b7", "."),
    "unreachable": ("yellow", "\u2717", "x"),
}
"""Color, mark, and the mark where the terminal has only ASCII."""


class TargetTable:
    """What is known of each loss at each KL that is sought.

    Args:
        console: that it is made for.
    """

    def __init__(self, console: Console) -> None:
        self.is_ascii = console.options.ascii_only
        self.losses: dict[str, dict[float, State]] = {}
        self.kls: list[float] = []

    def seek(self, losses: Sequence[str], kls: Sequence[float]) -> None:
        """Say what is sought; all of it is open."""
        for loss in losses:
            self.losses.setdefault(loss, {})
        self.kls = sorted({*self.kls, *kls})

    def set(self, loss: str, kl: float, *, met: bool) -> None:
        """Say what became of one."""
        self.seek([loss], [kl])
        self.losses[loss][kl] = "met" if met else "unreachable"

    def render(self, rows: int) -> RenderableType | None:
        """The table, in at most so many lines; with fewer than it needs the counts alone.

        None where nothing is sought, or no line is left.
        """
        if not self.losses or rows < 1:
            return None
        if len(self.losses) + 1 > rows:
            return self._counts()
        table = Table(box=None, padding=(0, 1), show_edge=False)
        table.add_column("KL (nats)", overflow="ellipsis", no_wrap=True)
        for kl in self.kls:
            table.add_column(f"{kl:g}", justify="center", no_wrap=True)
        for loss, states in self.losses.items():
            table.add_row(escape(loss), *(self._mark(states.get(kl, "open")) for kl in self.kls))
        return table

    def _counts(self) -> str:
        """How many losses are at each KL, in a line."""
        parts = []
        for kl in self.kls:
            states = [states.get(kl, "open") for states in self.losses.values()]
            lost = states.count("unreachable")
            beyond = f" ({lost} cannot)" if lost else ""
            parts.append(f"{kl:g}: {states.count('met')}/{len(states)}{beyond}")
        return "losses at KL " + ", ".join(parts)

    def _mark(self, state: State) -> str:
        color, mark, plain = _MARKS[state]
        return f"[{color}]{plain if self.is_ascii else mark}[/]"
