"""Tables as values; page, Markdown and LaTeX lay out the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Protocol

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.kl_axis import position
from dpo_bench.analysis.loss_curves import GridPoint, LossCurve, spelled_settings
from dpo_bench.analysis.metrics import (
    FRONTIER_GAP,
    IN_HEAT_MAP,
    IN_TABLE,
    KL,
    REWARD,
    WIN_RATE,
    Metric,
    present,
)
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.wording import MISSING, counted, interval, listing, number, plain_number

IN_PAPER = (REWARD, WIN_RATE, KL, FRONTIER_GAP)
"""measures of a paper's table of trials"""


class Figure(Protocol):
    """A figure with its 95% interval."""

    @property
    def value(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: what is read first.
        interval: its 95% interval in brackets, when it has one.
        notes: what else belongs to it: how many prompts, why it is missing.
        value: what it is sorted by; None sorts last.
        strong: whether it stands out.
        span: how many columns it takes.
    """

    text: str
    interval: str = ""
    notes: tuple[str, ...] = ()
    value: float | str | None = None
    strong: bool = False
    span: int = 1

    @property
    def detail(self) -> str:
        """Interval and notes in one line."""
        return ", ".join(filter(None, (self.interval, *self.notes)))


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        cells: in the order of the table's columns.
        series: index of its series; -1 when it belongs to none.
        trial: id of its trial, in the results.
        failed: whether the trial failed.
    """

    cells: tuple[Cell, ...]
    series: int = -1
    trial: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its headings, laid out alike in every format.

    Attributes:
        columns: a title and a sentence that explains it, which may be empty.
        rows: from the top.
        text_columns: how many of the first columns are text; the others are numbers.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    text_columns: int = 1


@dataclass(frozen=True, slots=True)
class HeatCell:
    """One setting of a heat map.

    Attributes:
        strength: as text.
        cell: the figure; a mean over seeds has no interval.
        share: place of the figure between the map's smallest (0) and largest (1), of KLs on the
            scale of the KL axis; None when it is missing.
    """

    strength: str
    cell: Cell
    share: float | None


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One measure over series and ranks of strength; rows may differ in length."""

    measure: Metric
    rows: tuple[tuple[LossCurve, tuple[HeatCell, ...]], ...]
    low: float
    high: float

    @property
    def ranks(self) -> int:
        """Length of the longest row."""
        return max(len(cells) for _, cells in self.rows)

    @property
    def table(self) -> Table:
        """The map as text: a row per series, a column per order of strength."""
        ranks = range(self.ranks)
        rows = []
        for series, cells in self.rows:
            shown = [
                Cell(
                    one.cell.text if one.strength == MISSING else f"{one.strength}: {one.cell.text}"
                )
                for one in cells
            ]
            shown += [Cell("")] * (self.ranks - len(cells))
            rows.append(Row((Cell(series.label), *shown), series.index))
        columns = (("Loss", ""), *((f"strength {rank + 1}", "") for rank in ranks))
        return Table(columns, tuple(rows))


def measured_cell(measured: Estimate, measure: Metric) -> Cell:
    """A figure with its interval and n; a dash when it is missing."""
    if measured.is_missing:
        return Cell(MISSING)
    decimals = measure.digits(measured)
    brackets = interval(measured.low, measured.high, decimals)
    notes = (f"n = {measured.n:,}",) if measured.n else ()
    return Cell(number(measured.value, decimals), brackets, notes, measured.value)


def estimate_cell(found: Figure, decimals: int = 3) -> Cell:
    """A figure with its interval."""
    brackets = interval(found.low, found.high, decimals)
    return Cell(number(found.value, decimals), brackets, value=found.value)


def results_table(results: SweepResults, series: Sequence[LossCurve]) -> Table:
    """Every trial with every figure that any trial has."""
    measures = present(results, IN_TABLE)
    first = [("Loss", "The loss, with the settings that tell it from its siblings.")]
    first += [("Strength", "The loss's own strength, the hyperparameter that its grid varies.")]
    many_seeds = len(results.seeds) > 1
    first += [("Seed", "Of the training.")] if many_seeds else []
    first += [("Source", "The sweeps that the trial comes from.")] if results.sources else []
    first += [("Status", "Done, stopped early by the search with the reason, or failed.")]
    columns = [*first, *((measure.axis, measure.about) for measure in measures)]
    columns += [("Seconds", "Training and evaluation together, this machine.")]
    rows = []
    for one, setting, trial in _trials(series):
        cells = _names(one, setting, trial, many_seeds)
        if trial.sources:
            named = listing(trial.sources)
            cells.append(Cell(named, value=named))
        cells.append(Cell(trial.state, value=trial.state))
        cells += [measured_cell(trial.estimate(measure.name), measure) for measure in measures]
        spent = [trial.value(name) for name in ("train_seconds", "evaluation_seconds")]
        seconds = sum(value for value in spent if value is not None) if any(spent) else None
        cells.append(Cell(number(seconds, 1), value=seconds))
        rows.append(Row(tuple(cells), one.index, trial.id, trial.failed))
    return Table(tuple(columns), tuple(rows), len(first))


def brief_results_table(results: SweepResults, series: Sequence[LossCurve]) -> Table:
    """Every trial with its main figures, narrow enough for a paper."""
    measures = present(results, IN_PAPER)
    many_seeds = len(results.seeds) > 1
    columns = ["Loss", "Strength", *(["Seed"] if many_seeds else [])]
    columns += [measure.axis for measure in measures] or ["Status"]
    rows = []
    for one, setting, trial in _trials(series):
        cells = _names(one, setting, trial, many_seeds)
        if trial.done:
            cells += [measured_cell(trial.estimate(measure.name), measure) for measure in measures]
        else:
            cells.append(Cell(trial.status, span=max(1, len(measures))))
        rows.append(Row(tuple(cells), one.index, trial.id, trial.failed))
    return Table(tuple((title, "") for title in columns), tuple(rows))


def _trials(series: Sequence[LossCurve]) -> Iterator[tuple[LossCurve, GridPoint, Trial]]:
    for one in series:
        for setting in one.points:
            for trial in setting.trials:
                yield one, setting, trial


def _names(series: LossCurve, setting: GridPoint, trial: Trial, many_seeds: bool) -> list[Cell]:
    """The first cells of a trial's row: its loss, strength and seed."""
    seed = [Cell(str(trial.seed), value=float(trial.seed))] if many_seeds else []
    return [Cell(series.label, value=series.label), strength_cell(series, setting), *seed]


def strength_cell(series: LossCurve, setting: GridPoint) -> Cell:
    """A strength with its name where that is not beta, and what else tells the setting apart."""
    further = spelled_settings(setting.trials[0], series.varied)
    if setting.strength is None:
        return Cell(further or MISSING)
    name = "" if series.strength_name in ("beta", "strength") else f"{series.strength_name} "
    text = f"{name}{plain_number(setting.strength)}"
    return Cell(", ".join(filter(None, [text, further])), value=setting.strength)


def heat_maps(results: SweepResults, series: Sequence[LossCurve]) -> tuple[HeatMap, ...]:
    """A map per measure, columns in the order of strength within each loss."""
    return tuple(heat_map(results, series, measure) for measure in present(results, IN_HEAT_MAP))


def heat_map(results: SweepResults, series: Sequence[LossCurve], measure: Metric) -> HeatMap:
    """One measure by loss and order of strength; some trial must have it."""
    many_seeds = len(results.seeds) > 1
    values = [
        value
        for one in series
        for setting in one.points
        if (value := setting.mean(measure.name)) is not None
    ]
    low, high = min(values), max(values)

    def share(value: float) -> float:
        place = position if measure == KL else float
        width = place(high) - place(low)
        return (place(value) - place(low)) / width if width > 0 else 0.5

    rows = tuple(
        (
            one,
            tuple(
                _heat_cell(one, s, measure, many_seeds, share) for s in one.settings or one.explored
            ),
        )
        for one in series
    )
    return HeatMap(measure, rows, low, high)


def _heat_cell(
    series: LossCurve,
    setting: GridPoint,
    measure: Metric,
    many_seeds: bool,
    share: Callable[[float], float],
) -> HeatCell:
    strength = strength_cell(series, setting).text
    mean = setting.mean(measure.name)
    if mean is None:
        missing = next((trial.status for trial in setting.trials if not trial.done), MISSING)
        return HeatCell(strength, Cell(missing), None)
    if many_seeds:
        count = counted(len(setting.done), "seed")
        cell = Cell(number(mean, measure.decimals), notes=(f"mean of {count}",), value=mean)
    else:
        cell = measured_cell(setting.done[0].estimate(measure.name), measure)
    return HeatCell(strength, cell, share(mean))


def seed_table(results: SweepResults, series: Sequence[LossCurve]) -> Table | None:
    """Mean and standard deviation (n - 1) over the seeds; None with a single seed."""
    if len(results.seeds) < 2:
        return None
    measures = present(results, (WIN_RATE, REWARD, KL))
    columns = [("Loss", ""), ("Strength", ""), ("Seeds", "Trials that finished.")]
    columns += [(measure.axis, "Mean and standard deviation over seeds.") for measure in measures]
    rows = []
    for one in series:
        for setting in one.settings:
            count = len(setting.done)
            cells = [Cell(one.label, value=one.label), strength_cell(one, setting)]
            cells.append(Cell(str(count), value=float(count)))
            cells += [_spread(setting, measure) for measure in measures]
            rows.append(Row(tuple(cells), one.index, failed=count == 0))
    return Table(tuple(columns), tuple(rows))


def _spread(setting: GridPoint, measure: Metric) -> Cell:
    values = [trial.value(measure.name) for trial in setting.done]
    known = [value for value in values if value is not None]
    mean = setting.mean(measure.name)
    if mean is None:
        return Cell(MISSING)
    deviation = (f"± {number(stdev(known), measure.decimals)}",) if len(known) > 1 else ()
    return Cell(number(mean, measure.decimals), notes=deviation, value=mean)
