"""Tables as values; the page and the Markdown file lay out the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import stdev

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.kl_axis import position
from dpo_bench.analysis.loss_curves import GridPoint, LossCurve
from dpo_bench.analysis.metrics import (
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


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: what is read first.
        detail: its interval and n, when it has any.
        value: what it is sorted by; None sorts last.
    """

    text: str
    detail: str = ""
    value: float | str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the results.

    Attributes:
        trial: id of its trial.
        series: index of its series.
        failed: whether the trial failed.
        cells: in the order of the table's columns.
    """

    trial: str
    series: int
    failed: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its headings; each column has a title and a sentence that explains it."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


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


def measured_cell(measured: Estimate, measure: Metric) -> Cell:
    """A figure with its interval and n; a dash when it is missing."""
    if measured.is_missing:
        return Cell(MISSING)
    decimals = measure.digits(measured)
    brackets = interval(measured.low, measured.high, decimals)
    n = f"n = {measured.n:,}" if measured.n else ""
    detail = ", ".join(filter(None, (brackets, n)))
    return Cell(number(measured.value, decimals), detail, measured.value)


def results_table(results: SweepResults, series: Sequence[LossCurve]) -> Table:
    """Every trial with every figure that any trial has."""
    measures = present(results, IN_TABLE)
    many_seeds = len(results.seeds) > 1
    columns = [("Loss", "The loss, with the settings that tell it from its siblings.")]
    columns += [("Strength", "The loss's own strength, the hyperparameter that its grid varies.")]
    columns += [("Seed", "Of the training: the order of the pairs.")] if many_seeds else []
    columns += [("Source", "The sweeps that the trial comes from.")] if results.sources else []
    columns += [("Status", "Done or failed.")]
    columns += [(measure.axis, measure.about) for measure in measures]
    columns += [("Seconds", "Training and evaluation together, this machine.")]
    rows = [
        Row(trial.id, one.index, not trial.done, _cells(one, setting, trial, measures, many_seeds))
        for one in series
        for setting in one.settings
        for trial in setting.trials
    ]
    return Table(tuple(columns), tuple(rows))


def _cells(
    series: LossCurve,
    setting: GridPoint,
    trial: Trial,
    measures: Sequence[Metric],
    many_seeds: bool,
) -> tuple[Cell, ...]:
    cells = [Cell(series.label, value=series.label), strength_cell(series, setting)]
    if many_seeds:
        cells.append(Cell(str(trial.seed), value=float(trial.seed)))
    if trial.sources:
        named = listing(trial.sources)
        cells.append(Cell(named, value=named))
    status = "done" if trial.done else "failed"
    cells.append(Cell(status, value=status))
    cells += [measured_cell(trial.estimate(measure.name), measure) for measure in measures]
    spent = [trial.value(name) for name in ("train_seconds", "evaluation_seconds")]
    seconds = sum(value for value in spent if value is not None) if any(spent) else None
    return (*cells, Cell(number(seconds, 1), value=seconds))


def strength_cell(series: LossCurve, setting: GridPoint) -> Cell:
    """A strength with its name where that is not beta."""
    if setting.strength is None:
        return Cell(MISSING)
    name = "" if series.strength_name == "beta" else f"{series.strength_name} "
    return Cell(f"{name}{plain_number(setting.strength)}", value=setting.strength)


def heat_maps(results: SweepResults, series: Sequence[LossCurve]) -> tuple[HeatMap, ...]:
    """A map per measure, columns in the order of strength within each loss."""
    return tuple(heat_map(results, series, measure) for measure in present(results, IN_HEAT_MAP))


def heat_map(results: SweepResults, series: Sequence[LossCurve], measure: Metric) -> HeatMap:
    """One measure by loss and order of strength; some trial must have it."""
    many_seeds = len(results.seeds) > 1
    values = [
        value
        for one in series
        for setting in one.settings
        if (value := setting.mean(measure.name)) is not None
    ]
    low, high = min(values), max(values)

    def share(value: float) -> float:
        place = position if measure == KL else float
        width = place(high) - place(low)
        return (place(value) - place(low)) / width if width > 0 else 0.5

    rows = tuple(
        (one, tuple(_heat_cell(one, s, measure, many_seeds, share) for s in one.settings))
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
        failed = any(not trial.done for trial in setting.trials)
        return HeatCell(strength, Cell("failed" if failed else MISSING), None)
    if many_seeds:
        count = counted(len(setting.done), "seed")
        cell = Cell(number(mean, measure.decimals), f"mean of {count}", mean)
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
            rows.append(Row("", one.index, count == 0, tuple(cells)))
    return Table(tuple(columns), tuple(rows))


def _spread(setting: GridPoint, measure: Metric) -> Cell:
    values = [trial.value(measure.name) for trial in setting.done]
    known = [value for value in values if value is not None]
    mean = setting.mean(measure.name)
    if mean is None:
        return Cell(MISSING)
    deviation = f"± {number(stdev(known), measure.decimals)}" if len(known) > 1 else ""
    return Cell(number(mean, measure.decimals), deviation, mean)
