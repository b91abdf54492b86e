"""``python -m benchmarks.search``: compare the search with grids in simulated worlds."""

from __future__ import annotations

import argparse
import csv
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.search.strategies import KLS, Found, grid, searched
from benchmarks.search.worlds import World

CORES = 2
REPORT = Path(__file__).parents[2] / "reports" / "search"
WORLDS = {10: 8, 20: 8, 38: 4}
"""how many worlds of so many losses"""
OWN = "own grid: 5 strengths"
GRIDS = {OWN: (5, 1.0)} | {
    f"{count} strengths, {'same range' if wider == 1 else f'{wider:g} times wider both ways'}": (
        count,
        wider,
    )
    for wider, counts in ((1.0, (7, 10, 20)), (10.0, (5, 7, 10, 14, 20, 40)))
    for count in counts
}
STRENGTH, RATE = "search by strength", "search by strength, then learning rate"
SEARCHES = {STRENGTH: False, RATE: True}
SEEDS = ((3, 3), (3, 10))
"""least and most seeds; grids have the most of all trials"""

_OPENING = """# What does a search for strengths cost beside a grid?

Written by `{command}` in {minutes:.0f} minutes on {cores} cores ({machine}, numpy {numpy}). No
model is trained: there are {worlds} simulated worlds, each with 10, 20 or 38 losses whose KL
follows their strength as it was measured on the embedded world
([curves.csv](../../benchmarks/search/curves.csv)), with the scatter between seeds that was measured
there. Beyond the strengths that were measured a curve is assumed to go on and to level within a
factor of a hundred; KL is assumed to rise with the 1.8th power of the learning rate. Each loss has
a true difference in reward from the baseline: a quarter of them none, the others .05, .1 or .15
either way, the same at all KLs. 256 prompts; the reward of runs at one KL deviates by .015.

Losses are compared with the baseline at KL .5, 1, 2, 4 and 8 as the report does. *Compared* is the
share of losses and KLs that have a difference at all, *decided* the share of true differences that
are called better or worse, rightly. A trial that is stopped early counts by its share of the steps.
Every line is a mean over worlds, in brackets the smallest and the largest. No grid varies the
learning rate.
"""

_RATIO = """## Trials of a grid for what the search comes to

How many times as many trials as the search the cheapest of these grids takes, with as many seeds
(those added at looks: with the most), that decides rightly at least as many true differences as the
search did in the same world, or that compares as many losses and KLs. The median over the worlds in
which a grid gets there, in brackets the smallest and the largest; the last columns say in how many
none does, however dense. *All*: the sums over all worlds, where chance in a single one matters
less. Which grid is the cheapest is known only afterwards.
"""

_RATIO_HEAD = (
    "| search | seeds | losses | to decide as many | to compare as many | no grid decides |"
    " no grid compares |"
)

What = Literal["right", "compared"]
WHAT: tuple[What, ...] = ("right", "compared")
"""that a grid is to come to as much of as the search"""


class Line(NamedTuple):
    """What a strategy came to in one world."""

    losses: int
    world: int
    seeds: str
    strategy: str
    trials: float
    cells: int
    compared: int
    differences: int
    right: int
    wrong: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--worlds", type=int, help="of each number of losses; else 8, 8 and 4")
    parser.add_argument("--losses", type=int, nargs="+", default=list(WORLDS))
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    numbers = {one: options.worlds or WORLDS.get(one, 4) for one in options.losses}
    work = [(world, losses) for losses, count in numbers.items() for world in range(count)]
    with ProcessPoolExecutor(CORES) as pool:
        lines = [line for part in pool.map(in_world, work) for line in part]
    minutes = (time.perf_counter() - start) / 60
    given = (f" --worlds {options.worlds}" if options.worlds else "") + (
        "" if options.losses == list(WORLDS) else f" --losses {' '.join(map(str, options.losses))}"
    )
    opening = _OPENING.format(
        command=f"python -m benchmarks.search{given}",
        minutes=minutes,
        cores=CORES,
        machine=platform.machine(),
        numpy=np.__version__,
        worlds=len(work),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(options.out / "worlds.csv", lines)
    text = document(opening, lines)
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def in_world(work: tuple[int, int]) -> list[Line]:
    """All strategies in one world."""
    number, losses = work
    world = World(number, losses)
    return [_line(world, *one) for one in _all(world)]


def _all(world: World) -> Iterator[tuple[str, str, Found]]:
    for least, most in SEEDS:
        seeds = f"{least}" if least == most else f"{least} to {most}"
        for name, (count, wider) in GRIDS.items():
            yield f"{most}", name, grid(world, count, most, wider)
        for name, by_rate in SEARCHES.items():
            yield seeds, name, searched(world, (least, most), by_rate=by_rate)


def _line(world: World, seeds: str, strategy: str, found: Found) -> Line:
    return Line(
        len(world.heights),
        world.number,
        seeds,
        strategy,
        found.trials,
        len(KLS) * (len(world.heights) - 1),
        len(found.compared),
        len(KLS) * sum(one != 0 for one in world.heights.values()),
        len(found.right),
        len(found.wrong),
    )


def write_csv(file: Path, lines: Sequence[Line]) -> None:
    """All lines, one a world and strategy."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(Line._fields)
        writer.writerows(lines)


def document(opening: str, lines: Sequence[Line]) -> str:
    """The report."""
    parts = [opening, "## All worlds together", "", *_table(pooled(lines)), ""]
    for losses in sorted({one.losses for one in lines}):
        here = [one for one in lines if one.losses == losses]
        worlds = len({one.world for one in here})
        parts += [f"## {losses} losses, {worlds} worlds", "", *_table(here), ""]
    return "\n".join([*parts, *_ratio_table(lines), ""])


def pooled(lines: Sequence[Line]) -> list[Line]:
    """All worlds as one, of 0 losses: what each strategy came to in all of them."""
    found: dict[tuple[str, str], Line] = {}
    for one in lines:
        key = (one.seeds, one.strategy)
        before = found.get(key, Line(0, 0, *key, 0.0, 0, 0, 0, 0, 0))
        found[key] = before._replace(
            trials=before.trials + one.trials,
            cells=before.cells + one.cells,
            compared=before.compared + one.compared,
            differences=before.differences + one.differences,
            right=before.right + one.right,
            wrong=before.wrong + one.wrong,
        )
    return list(found.values())


def _table(lines: Sequence[Line]) -> list[str]:
    wrong = "wrong verdicts"
    table = [
        f"| strategy | seeds | trials | compared | decided | trials per decision | {wrong} |",
        "|---|---|---|---|---|---|---|",
    ]
    for seeds, strategy in dict.fromkeys((one.seeds, one.strategy) for one in lines):
        own = [one for one in lines if (one.seeds, one.strategy) == (seeds, strategy)]
        compared = _range([100 * one.compared / one.cells for one in own], "%")
        decided = _range([100 * one.right / max(one.differences, 1) for one in own], "%")
        trials = _range([one.trials for one in own])
        each = sum(one.trials for one in own) / max(sum(one.right for one in own), 1)
        count = sum(one.wrong for one in own)
        table.append(
            f"| {strategy} | {seeds} | {trials} | {compared} | {decided} | {each:.1f} | {count} |"
        )
    return table


def _range(values: Sequence[float], unit: str = "") -> str:
    low, high = min(values), max(values)
    spread = f" ({low:,.0f} to {high:,.0f})" if len(values) > 1 else ""
    return f"{np.mean(values):,.0f}{unit}{spread}"


def ratios(
    lines: Sequence[Line], search: str, seeds: str, what: What
) -> Mapping[int, list[float | None]]:
    """By number of losses, in each world: a grid's trials to the search's; None: no grid does.

    Args:
        lines: of all worlds.
        search: which.
        seeds: that it had; grids have the most of these.
        what: is to be as much as the search came to.
    """
    found: dict[int, list[float | None]] = {}
    most = seeds.rpartition(" ")[2]
    for one in lines:
        if (one.strategy, one.seeds) != (search, seeds):
            continue
        grids = [
            other
            for other in lines
            if (other.losses, other.world, other.seeds) == (one.losses, one.world, most)
            and other.strategy in GRIDS
        ]
        enough = [other.trials for other in grids if getattr(other, what) >= getattr(one, what)]
        ratio = min(enough) / one.trials if enough else None
        found.setdefault(one.losses, []).append(ratio)
    return found


def _ratio_table(lines: Sequence[Line]) -> list[str]:
    table = [_RATIO, _RATIO_HEAD, "|---|---|---|---|---|---|---|"]
    for seeds in ("3", "3 to 10"):
        for search in SEARCHES:
            decided, compared = (
                ratios([*lines, *pooled(lines)], search, seeds, what) for what in WHAT
            )
            for losses in sorted(decided):
                parts = (decided[losses], compared[losses])
                cells = [*map(_spread, parts), *map(_missed, parts)]
                table.append(f"| {search} | {seeds} | {losses or 'all'} | {' | '.join(cells)} |")
    return table


def _spread(found: Sequence[float | None]) -> str:
    values = [ratio for ratio in found if ratio is not None]
    if not values:
        return ""
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{np.median(values):.1f}{spread}"


def _missed(found: Sequence[float | None]) -> str:
    return f"{found.count(None)} of {len(found)}"


if __name__ == "__main__":
    raise SystemExit(main())
