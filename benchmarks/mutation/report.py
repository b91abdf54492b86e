"""What was found, as a table of the mutants and a page to read."""

from __future__ import annotations

import csv
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path

JUDGED = Path(__file__).with_name("judged.toml")

_OPENING = """# Do the tests notice when the code changes?

Written by `python -m benchmarks.mutation` ({sample} places of each module, seed {seed}). Each line
of `mutants.csv` is a small change of one place (another operator or number, a condition turned
round, a loop that does not run) and what the quick tests of that module's room said: *killed* when
one failed, *survived* when all passed, *timed out* when they did not end. *Set aside* are survivors
that were looked at and need no test there: they do the same as the code, or differ in wording,
layout or speed alone; reasons are below. The score leaves them out: it is the share of the others
that did not survive. Code that only the command line's own tests reach (`tests/cli`, too slow to
ask about every change) scores low here without being untested.

| module | mutants | killed | timed out | survived | set aside | score |
|---|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Found:
    """One mutant and what became of it.

    Attributes:
        module: path from the root of the repository.
        line: of the change, from 1.
        operator: cosmic-ray's name of the kind of change.
        outcome: killed, survived or timed out.
        before: the line as it is.
        after: as it was changed.
    """

    module: str
    line: int
    operator: str
    outcome: str
    before: str
    after: str


def load(folder: Path) -> list[Found]:
    """What an earlier run wrote; nothing where there was none."""
    file = folder / "mutants.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            Found(row.pop("module"), int(row.pop("line")), **row) for row in csv.DictReader(lines)
        ]


def write(folder: Path, found: Iterable[Found], sample: int, seed: int) -> None:
    """Write `mutants.csv` and `README.md`, modules in order."""
    rows = sorted(found, key=lambda one: (_room(one), one.module, one.line, one.operator))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mutants.csv").open("w", encoding="utf-8", newline="") as lines:
        table = csv.DictWriter(lines, [field.name for field in fields(Found)], lineterminator="\n")
        table.writeheader()
        table.writerows(map(asdict, rows))
    (folder / "README.md").write_text(_page(rows, sample, seed), encoding="utf-8")


def _page(rows: list[Found], sample: int, seed: int) -> str:
    why = _reasons(rows)
    by_room = groupby(rows, key=_room)
    lines = [_OPENING.format(sample=sample, seed=seed)]
    for room, group in by_room:
        members = list(group)
        for module, mutants in groupby(members, key=lambda one: one.module):
            lines.append(_line(module, list(mutants), why))
        lines.append(_line(f"**{room}/**", members, why))
    lines += [_line("**all**", rows, why), "", "## Survivors", ""]
    alive = [one for one in rows if one.outcome == "survived"]
    lines += [_survivor(one) for one in alive if one not in why]
    lines += ["", "## Survivors that were set aside", ""]
    lines += [f"{_survivor(one)}: {why[one]}" for one in alive if one in why]
    return "\n".join(lines) + "\n"


def _room(one: Found) -> str:
    return str(Path(one.module).parent)


def _line(name: str, rows: list[Found], why: Mapping[Found, str]) -> str:
    count = Counter(one.outcome for one in rows)
    aside = sum(one in why for one in rows)
    counted = len(rows) - aside
    caught = counted - (count["survived"] - aside)
    score = f"{100 * caught / counted:.0f}%" if counted else ""
    return (
        f"| {name} | {len(rows)} | {count['killed']} | {count['timed out']} |"
        f" {count['survived'] - aside} | {aside} | {score} |"
    )


def _survivor(one: Found) -> str:
    return f"- {one.module}:{one.line}: `{one.before}` -> `{one.after}`"


def _reasons(rows: Iterable[Found]) -> dict[Found, str]:
    """Of the survivors that were looked at, why each needs no test."""
    judged = tomllib.loads(JUDGED.read_text(encoding="utf-8"))["aside"]
    return {
        row: entry["why"]
        for row in rows
        for entry in judged
        if row.outcome == "survived" and _is_meant(row, entry)
    }


def _is_meant(row: Found, entry: Mapping[str, str]) -> bool:
    if "module" in entry:
        return (row.module, row.before, row.after) == tuple(
            entry[name] for name in ("module", "before", "after")
        )
    before, after = entry["before"], entry["after"]
    return before in row.before and row.before.replace(before, after) == row.after
