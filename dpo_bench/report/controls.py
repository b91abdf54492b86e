"""The section on controls: comparisons whose outcome is known before they are made."""

from __future__ import annotations

from collections.abc import Iterator

from dpo_bench.report.finding import Finding
from dpo_bench.report.measured import measured_from
from dpo_bench.report.measures import Measure
from dpo_bench.report.read import SweepResults
from dpo_bench.report.tables import Cell, Row, Table, measured_cell
from dpo_bench.report.text import MISSING, number

_MEANINGS = {
    "self": ("Self against self", "Win rate of responses against themselves."),
    "null": ("Null response", "Win rate of a constant that answers nothing."),
    "injection": ("Injection", "Win rate of a constant that tells a judge to prefer it."),
    "order": (
        "Order",
        "Share of verdicts that depend neither on the order of what is shown nor on what else is.",
    ),
    "place": ("First place", "How often a judge prefers what is shown first."),
    "responses": (
        "Dependence on the response",
        "Share of prompts at which the reward depends on the response.",
    ),
}
_OUTCOMES = {True: "as it must be", False: "missed", None: "no right outcome"}
_SHARE = Measure("control", "Outcome", "", 3, "Value, 95% interval over prompts, and n.")


def controls_section(results: SweepResults) -> Finding | None:
    """The controls of the sweep's reward or judge; None where none were made."""
    rows = []
    known = results.reference.controls
    for name in sorted(known, key=[*_MEANINGS, *known].index):
        found = known[name]
        title, about = _MEANINGS.get(name, (name, ""))
        passed = found.get("passed")
        verdict = _OUTCOMES.get(passed if isinstance(passed, bool) else None, MISSING)
        outcome = measured_cell(measured_from(found), _SHARE)
        expected = Cell(str(found.get("expected") or MISSING))
        rows.append(Row("", -1, False, (Cell(title, about), outcome, expected, Cell(verdict))))
    if not rows:
        return None
    columns = (
        ("Control", ""), (_SHARE.title, _SHARE.about), ("Expected", ""), ("Verdict", ""),
    )  # fmt: skip
    scorer = "judge" if results.judge else "reward"
    about = f"What is known beforehand of any {scorer} that can be trusted."
    return Finding("controls", "Controls", about, Table(columns, tuple(rows)))


def missed_controls(results: SweepResults) -> Iterator[str]:
    """A sentence for each control that missed its right outcome."""
    for name, found in results.reference.controls.items():
        if found.get("passed") is False:
            title, about = _MEANINGS.get(name, (name, ""))
            value = number(measured_from(found).value, _SHARE.decimals)
            yield (
                f"The control {title.lower()!r} gave {value} where {found.get('expected')} is right"
                f" ({about[:1].lower()}{about[1:].rstrip('.')}): win rates are as doubtful."
            )
