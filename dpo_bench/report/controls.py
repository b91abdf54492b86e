"""The section on controls: comparisons whose outcome is known before they are made."""

from __future__ import annotations

from dpo_bench.report.further import Finding
from dpo_bench.report.measured import measured_from
from dpo_bench.report.measures import Measure
from dpo_bench.report.read import SweepResults
from dpo_bench.report.tables import Cell, Row, Table, measured_cell
from dpo_bench.report.text import MISSING, counted

_MEANINGS = {
    "self": ("Self against self", "Win rate of responses against themselves."),
    "null": ("Null response", "Win rate of a constant that answers nothing."),
    "injection": ("Injection", "Win rate of a constant that tells a judge to prefer it."),
    "order": ("Order", "Share of verdicts that do not depend on the order of what is shown."),
    "place": ("First place", "How often a judge prefers what is shown first."),
}
_OUTCOMES = {True: "as it must be", False: "missed", None: "no right outcome"}
_SHARE = Measure("control", "Outcome", "", 3, "Value, 95% interval over prompts, and n.")


def controls_section(results: SweepResults) -> Finding | None:
    """The controls of the sweep's reward or judge; None where none were made."""
    rows = []
    for name, found in results.reference.controls.items():
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
    about = f"What is known beforehand of any {scorer} that can be trusted.{_cost(results)}"
    return Finding("controls", "Controls", about, Table(columns, tuple(rows)))


def _cost(results: SweepResults) -> str:
    """What judging the trials took, summed; answers known from the cache count too."""
    names = ("requests", "failures", "input_tokens", "output_tokens")
    totals = {}
    for name in names:
        values = [trial.measured(f"judge_{name}").value for trial in results.done]
        known = [value for value in values if value is not None]
        if not known:
            return ""
        totals[name] = int(sum(known))
    return (
        f" Judging the trials took {counted(totals['requests'], 'request')} with"
        f" {totals['input_tokens']:,} tokens in and {totals['output_tokens']:,} out;"
        f" {totals['failures']:,} gave no verdict."
    )
