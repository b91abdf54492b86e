"""The section on controls: comparisons whose outcome is known before they are made."""

from __future__ import annotations

from collections.abc import Iterator

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.judge_costs import LEAST_AGREEMENT
from dpo_bench.analysis.metrics import Metric
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.sections.lost_verdicts import missing_verdicts
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row, measured_cell
from dpo_bench.report.templating import Words
from dpo_bench.wording import MISSING

_ORDER = ("self", "null", "neutral", "injection", "order", "place", "responses")
_OUTCOMES = {True: "as it must be", False: "missed", None: "no right outcome"}
_SHARE = Metric("control", "Outcome", "", 3, "")


def controls_section(results: SweepResults) -> ReportSection | None:
    """The controls of the sweep's reward or judge; None where none were made."""
    rows = []
    known = results.reference.controls
    for name in sorted(known, key=[*_ORDER, *known].index):
        found = known[name]
        title, about = _meaning(name)
        passed = found.get("passed")
        verdict = _OUTCOMES.get(passed if isinstance(passed, bool) else None, MISSING)
        outcome = measured_cell(Estimate.read(found), _SHARE)
        expected = Cell(str(found.get("expected") or MISSING))
        rows.append(Row((Cell(title, notes=(about,)), outcome, expected, Cell(verdict))))
    return written("controls", rows, (results.judge,)) if rows else None


def _meaning(name: str) -> tuple[str, str]:
    """A control's title and what it measures."""
    ((title, about),) = Words("sections").notes("control", name)
    return title, about


def missed_controls(results: SweepResults) -> Iterator[str]:
    """A sentence for each control that missed its right outcome, and for verdicts that are lost."""
    words = Words("sections")
    for name, found in results.reference.controls.items():
        if found.get("passed") is not False:
            continue
        if name == "order" and results.judge:
            place = Estimate.read(results.reference.controls.get("place") or {})
            about = (agreement(results), place, LEAST_AGREEMENT)
            yield from words.items("follows_the_place", *about)
        else:
            title, meaning = _meaning(name)
            meaning = f"{meaning[:1].lower()}{meaning[1:].rstrip('.')}"
            expected, value = str(found.get("expected")), Estimate.read(found).value
            yield from words.items("missed_control", title.lower(), value, expected, meaning)
    yield from missing_verdicts(results)


def follows_the_place(results: SweepResults) -> bool:
    """Whether the sweep's judge agrees with itself on too few pairs to tell policies apart."""
    order = results.reference.controls.get("order") or {}
    return bool(results.judge) and order.get("passed") is False


def agreement(results: SweepResults) -> Estimate:
    """Share of the controlled pairs on which both orders of a judge agree."""
    return Estimate.read(results.reference.controls.get("order") or {})
