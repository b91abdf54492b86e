"""Tables of papers that need a model: published columns beside ours, blank where not run."""

from __future__ import annotations

import importlib.resources
import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from dpo_bench.analysis.results import EXPERIMENT, SweepResults, Trial, read_sweep
from dpo_bench.contract import get_loss
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.fields import NO_EFFECT, SOURCE, VARIED, values
from dpo_bench.experiment.read import find_file, read_file, validate, validate_record
from dpo_bench.reproduce.precision import Z95, Difference, share_error
from dpo_bench.reproduce.record import (
    Kind,
    Provenance,
    PublishedRow,
    Reproduced,
    recomputed,
)

FAILED, BLANK = "failed", "blank"
Cell = float | str
"""A figure, or why there is none: `FAILED` or `BLANK`."""
NOT_RERUNNABLE = "not re-runnable"


@dataclass(frozen=True, slots=True)
class Column:
    """A series of a table.

    Attributes:
        series: its name.
        provenance: how the paper's figures were obtained.
        x: settings, most often the strength.
        published: a cell for each.
        loss: of the registry; empty where the registry has none (PPO, best of n).
        metric: column of a sweep's results that is the same quantity; empty where there is none.
        unit: ``share``, ``percent`` or empty: how n gives a standard error.
        spread: the published ±, None where there is none.
        notes: words on single cells, by x.
        provenances: of single cells whose figures were obtained otherwise, by x.
    """

    series: str
    provenance: Provenance
    x: tuple[float | str, ...]
    published: tuple[Cell, ...]
    loss: str = ""
    metric: str = ""
    unit: str = ""
    spread: float | None = None
    notes: Mapping[str, str] | None = None
    provenances: Mapping[str, Provenance] | None = None

    def mark(self, x: float | str) -> Provenance:
        """How the figure of one cell was obtained."""
        return (self.provenances or {}).get(str(x), self.provenance)

    def share(self, x: float | str) -> float | None:
        """The figure of a cell as a share, None where it is none."""
        value = dict(zip(self.x, self.published, strict=True)).get(x)
        if not isinstance(value, float | int) or not self.unit:
            return None
        return value / (100 if self.unit == "percent" else 1)


@dataclass(frozen=True, slots=True)
class _Compared:
    """Two published figures of one x, and what n says of their difference."""

    first: str
    second: str
    x: float | str
    mark: Provenance
    found: Difference

    @property
    def sentence(self) -> str:
        """A line of the text, marked where a figure was read by eye."""
        x = f"{self.x:g}" if isinstance(self.x, float) else self.x
        eye = " (figures read by eye)" if self.mark == "eye" else ""
        return f"- At {x}: {self.found.sentence(self.first, self.second)}{eye}."


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table or figure of a paper, with the experiment files that would fill it.

    Attributes:
        name: on the command line.
        title: what it shows, in a line.
        source: paper, arXiv id, section or figure.
        experiments: names of shipped experiment files.
        text: the setting, and what a reader must know.
        columns: its series.
        n: prompts behind each figure, None where the paper does not say.
        judge: a judge that can no longer be asked; empty where the reward can be rerun.
        compare: pairs of series whose published difference is judged at n.
        data: which file of the authors holds its raw numbers, and where that is; empty for none.
        function: ``module:function`` that judges the paper's claims by that file.
    """

    name: str
    title: str
    source: str
    experiments: tuple[str, ...]
    text: str
    columns: tuple[Column, ...]
    n: int | None = None
    judge: str = ""
    compare: tuple[tuple[str, str], ...] = ()
    data: str = ""
    function: str = ""

    @property
    def kind(self) -> Kind:
        """``table``: it needs a model."""
        return "table"

    @property
    def cost(self) -> str:
        """What running it takes, in words."""
        return "hub, GPU"

    def run(self, folders: Sequence[Path] = (), data: Path | None = None) -> Reproduced:
        """Published beside ours, filled from finished sweeps where there are any.

        With the authors' own file: their claims, judged by its raw numbers.

        Raises:
            ConfigurationError: a folder is no sweep of this table's experiment files, or there is
                a file where none is read.
        """
        if data is not None:
            if folders or not self.data:
                raise ConfigurationError(
                    f"--data: {self.name} is filled from sweeps (--runs)"
                    + (", or judged by its authors' file: give one of both." if self.data else ".")
                )
            return recomputed(self.name, self.source, self.function, self.data, data)
        if folders:
            rows, remarks = filled_rows(self, folders)
        else:
            rows, remarks = self.blank_rows(), []
        compared = list(self._compared())
        differences = [self._difference_row(one) for one in compared]
        sentences = "\n".join(one.sentence for one in compared)
        return Reproduced((*rows, *differences), self._text([*remarks, sentences]))

    def blank_rows(self) -> list[PublishedRow]:
        """The published columns, ours left blank."""
        return [
            self.row(column, x, cell)
            for column in self.columns
            for x, cell in zip(column.x, column.published, strict=True)
        ]

    def row(self, column: Column, x: float | str, cell: Cell) -> PublishedRow:
        """A cell as a row, ours blank, with the words that belong to it."""
        notes = [(column.notes or {}).get(str(x), "")]
        if cell == FAILED:
            notes.append("failed in the paper")
        elif self.judge:
            notes.append(NOT_RERUNNABLE)
        figure = None if isinstance(cell, str) else float(cell)
        note = ", ".join(filter(None, notes))
        return PublishedRow(
            self.source, column.series, x, figure, None, None, column.mark(x), None, note
        )

    def _compared(self) -> Iterator[_Compared]:
        """The published differences that are asked for, each at the paper's own n."""
        columns = {column.series: column for column in self.columns}
        for first, second in self.compare:
            one, other = columns[first], columns[second]
            for x in one.x:
                shares = one.share(x), other.share(x)
                if self.n is None or shares[0] is None or shares[1] is None:
                    continue
                by_eye = "eye" in {one.mark(x), other.mark(x)}
                found = Difference((shares[0], shares[1]), self.n, by_eye)
                yield _Compared(first, second, x, "eye" if by_eye else one.mark(x), found)

    def _difference_row(self, one: _Compared) -> PublishedRow:
        series = f"{one.first} over {one.second}, points (n {self.n})"
        points, note = round(one.found.points, 2), one.found.verdict()
        return PublishedRow(self.source, series, one.x, points, None, None, one.mark, None, note)

    def _text(self, remarks: Sequence[str]) -> str:
        files = ", ".join(f"`dpo-bench sweep {name}`" for name in self.experiments)
        fate = (
            f"**{NOT_RERUNNABLE.capitalize()}**: judged by {self.judge}. Another judge measures"
            " something else, so that our column stays blank."
            if self.judge
            else "`--runs DIR` fills our column from its finished folder."
        )
        if self.data:
            fate += f" `--data PATH` judges the paper's claims by {self.data}."
        return "\n\n".join(
            filter(None, [self.text.strip(), f"Experiment: {files}. {fate}", *remarks])
        )


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """All tables, as they lie in ``published/``."""
    folder = Path(str(importlib.resources.files("dpo_bench.reproduce"))) / "published"
    return tuple(_read(file) for file in sorted(folder.glob("*.toml")))


def _read(file: Path) -> PublishedTable:
    content: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    columns = tuple(_column(one) for one in content.pop("columns"))
    compare = tuple(
        cast("tuple[str, str]", pair)
        for series in content.pop("compare", ())
        for pair in itertools.product(series[:1], series[1:])
    )
    content["experiments"] = tuple(content["experiments"])
    return PublishedTable(name=file.stem, columns=columns, compare=compare, **content)


def _column(content: dict[str, Any]) -> Column:
    return Column(**{**content, "x": tuple(content["x"]), "published": tuple(content["published"])})


def filled_rows(
    table: PublishedTable, folders: Sequence[Path]
) -> tuple[list[PublishedRow], list[str]]:
    """The rows of a table with our column, and what must be said of the sweeps.

    A verdict is given only where the sweep's settings are those of the shipped file.

    Raises:
        ConfigurationError: a folder is no sweep, or has another policy or other preferences.
    """
    trials: list[Trial] = []
    remarks, exact = [], True
    for folder in folders:
        if not (folder / EXPERIMENT).is_file():
            raise ConfigurationError(f"{folder} is not a sweep's folder: no {EXPERIMENT} in it.")
        sweep = read_sweep(folder)
        changed = _changes(table, sweep)
        trials += sweep.trials
        if changed:
            exact = False
            remarks.append(
                f"`{folder.name}` was run with other settings ({'; '.join(changed)}): its figures"
                " stand without a verdict."
            )
    rows = []
    for column in table.columns:
        for x, cell in zip(column.x, column.published, strict=True):
            rows.append(_filled(table, column, (x, cell), trials, exact))
    return rows, remarks


def _changes(table: PublishedTable, sweep: SweepResults) -> list[str]:
    """Settings in which a sweep differs from the nearest of the table's files, in words."""
    made_by = sweep.versions.get("dpo_bench", "")
    ran = validate_record(sweep.experiment, sweep.folder / EXPERIMENT, made_by)
    candidates = []
    for name in table.experiments:
        shipped = validate(read_file(find_file(name)), name)
        if _sources(shipped) == _sources(ran):
            candidates.append(_differences(shipped, ran))
    if not candidates:
        raise ConfigurationError(
            f"{sweep.folder} is a sweep of {ran.policy} on {ran.preferences}: {table.name} is"
            f" filled from {', '.join(table.experiments)} (`--runs`)."
        )
    return min(candidates, key=len)


def _sources(experiment: Experiment) -> dict[str, Any]:
    """What makes a sweep this experiment and no other."""
    return {key.path: value for key, value in values(experiment) if key.has(SOURCE)}


def _differences(shipped: Experiment, ran: Experiment) -> list[str]:
    """The keys that may change a result and that are not the same."""
    ours, theirs = (
        {
            key.path: value
            for key, value in values(one)
            if not key.has(NO_EFFECT) and not key.has(VARIED)
        }
        for one in (shipped, ran)
    )
    return [
        f"{path} = {theirs.get(path)} instead of {ours.get(path)}"
        for path in ours | theirs
        if theirs.get(path) != ours.get(path)
    ]


def _filled(
    table: PublishedTable,
    column: Column,
    at: tuple[float | str, Cell],
    trials: Sequence[Trial],
    exact: bool,
) -> PublishedRow:
    row = table.row(column, *at)
    if not column.loss or not column.metric or table.judge or isinstance(at[0], str):
        return row
    name = get_loss(column.loss).name
    found = [trial for trial in trials if trial.loss == name and trial.strength == at[0]]
    if found and not any(trial.done for trial in found):
        return replace(row, note=", ".join(filter(None, (row.note, "ours failed"))))
    figures = [trial.estimate(column.metric) for trial in found]
    known = [figure for figure in figures if not figure.is_missing]
    if not known:
        return row
    mean = sum(figure.value for figure in known) / len(known)
    widths = [(figure.high - figure.low) / (2 * Z95) for figure in known if figure.has_interval]
    ours = math.hypot(*widths) / len(widths) if widths else 0.0
    tolerance = _tolerance(table, column, at[0], ours) if exact else None
    return replace(row, reproduced=mean, tolerance=tolerance)


def _tolerance(table: PublishedTable, column: Column, x: float | str, ours: float) -> float | None:
    """95% half-width of the difference; None where the paper gives neither n nor a spread."""
    if column.spread is not None:
        return math.hypot(column.spread, Z95 * ours)
    share = column.share(x)
    if table.n is None or share is None:
        return None
    scale = 100 if column.unit == "percent" else 1
    error = share_error(share, table.n, by_eye=column.mark(x) == "eye")
    return Z95 * math.hypot(scale * error, ours)
