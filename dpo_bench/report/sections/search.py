"""The section on how a search found the settings that are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dpo_bench.analysis.loss_curves import LossCurve, spelled
from dpo_bench.analysis.metrics import KL
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row
from dpo_bench.wording import MISSING, number

Record = Mapping[str, Any]


def search_section(results: SweepResults, series: Sequence[LossCurve]) -> ReportSection | None:
    """Losses by targets; None where settings were given."""
    found: list[Record] = list(results.search.get("series") or ())
    targets = sorted({float(one["kl"]) for record in found for one in record.get("targets", ())})
    if not targets:
        return None
    shown = [one for one in found if one.get("chosen") is not False]
    strengths = {trial.loss: trial.strength_name for trial in results.trials}
    rows = [_row(one, targets, strengths, series) for one in found]
    about = (
        [number(kl, KL.decimals) for kl in targets],
        len(shown),
        sum(_reached(one) == len(targets) for one in shown),
        sum(_by_own(one) == len(targets) for one in shown),
        sum(int(one.get("searched") or 0) for one in found),
        _saved(results.stopped),
        [_look(one) for one in results.search.get("looks") or ()],
        str(results.search.get("end") or ""),
    )
    return written("search", rows, about, [[number(kl, KL.decimals) for kl in targets]])


def _row(
    record: Record,
    targets: Sequence[float],
    strengths: Mapping[str, str],
    series: Sequence[LossCurve],
) -> Row:
    key = str(record["key"])
    own = {float(one["kl"]): one for one in record.get("targets", ())}
    strength = strengths.get(key.split(" ", maxsplit=1)[0], "")
    unchosen = ("not chosen",) if record.get("chosen") is False else ()
    path = set(record.get("path") or ())
    index = next((one.index for one in series if path & {t.id for t in one.trials}), -1)
    counts = [int(record.get(name) or 0) for name in ("searched", "stopped")]
    return Row(
        (
            Cell(key.replace("=", " "), notes=unchosen, value=key),
            *(_target(own.get(kl), strength) for kl in targets),
            *(Cell(str(count), value=float(count)) for count in counts),
        ),
        index,
    )


def _target(found: Record | None, strength: str) -> Cell:
    """What reached a target, and by what where that was not the strength; else why nothing did."""
    if found is None or found.get("reached") is None:
        return Cell(MISSING, notes=(str((found or {}).get("why") or "not yet"),))
    setting: Mapping[str, Any] = found.get("setting") or {}
    by = str(found.get("by") or "")
    words = ", ".join(f"{name} {spelled(value)}" for name, value in setting.items())
    other = bool(by) and by != strength
    notes = (f"KL {number(float(found['reached']), KL.decimals)}", *([f"by {by}"] * other))
    return Cell(words or MISSING, notes=notes, value=float(found["reached"]), strong=other)


def _reached(record: Record) -> int:
    return sum(one.get("reached") is not None for one in record.get("targets", ()))


def _by_own(record: Record) -> int:
    """At how many targets a loss was led by its own hyperparameters."""
    found = [one for one in record.get("targets", ()) if one.get("reached") is not None]
    return sum(str(one.get("by")) not in ("learning_rate", "steps", "epochs") for one in found)


def _saved(stopped: Sequence[Trial]) -> dict[str, Any] | None:
    """How many trials were stopped early, the steps that this saved, and the first reason."""
    if not stopped:
        return None
    known = [one.stopped for one in stopped if one.stopped]
    saved = sum(int(one.get("steps") or 0) - int(one.get("step") or 0) for one in known)
    total = sum(int(one.get("steps") or 0) for one in known)
    return {"count": len(stopped), "steps": saved, "of": total, "why": stopped[0].error}


def _look(found: Record) -> dict[str, Any]:
    opened = found.get("open") or ()
    return {"seeds": len(found["seeds"]), "level": float(found["level"]), "open": len(opened),
            "named": list(_few(list(opened)))}  # fmt: skip


def _few(names: Sequence[str], count: int = 5) -> Iterator[str]:
    yield from names[:count]
    if len(names) > count:
        yield f"{len(names) - count} more"
