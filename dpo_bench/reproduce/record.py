"""What an experiment is and what it gives: rows of published beside reproduced figures."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from dpo_bench.errors import ConfigurationError
from dpo_bench.threads import one_thread

Provenance = Literal["src", "csv", "dig", "eye", "run", "formula", ""]

PROVENANCE = MappingProxyType(
    {
        "src": "read in the paper or its authors' files",
        "csv": "computed from the authors' own result file",
        "dig": "digitised from a figure, ± .003",
        "eye": "read off a figure by eye, ± .02",
        "run": "not published: from an independent rerun of the paper's setting",
        "formula": "value of a formula in the paper",
    }
)
"""What the mark beside a figure means."""

Kind = Literal["exact", "variant", "claims", "data", "table"]

Word = Literal["holds", "tie", "fails"]
"""What became of a claim."""
CODES: Mapping[Word, float] = MappingProxyType({"holds": 1.0, "tie": 0.0, "fails": -1.0})
"""The same as figures, so that a claim is a row like any other."""

KEYS = ("source", "series", "x", "published", "reproduced", "tolerance", "ok")
"""Keys of a row for programs, in this order."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One figure, published beside reproduced.

    Attributes:
        source: the paper with the section, figure or table.
        series: what the figure is of.
        x: where on the horizontal axis, or which setting.
        published: the paper's figure; None where it gives none.
        reproduced: ours; None where it was not run.
        tolerance: largest distance that counts as the same; None where nothing is claimed.
        provenance: how the figure to compare with was obtained, a key of `PROVENANCE`.
        rerun: stands in for a figure that the paper lacks: measured, but not by its authors.
        note: a word on it, shown with the verdict.
    """

    source: str
    series: str
    x: float | str
    published: float | None
    reproduced: float | None
    tolerance: float | None = None
    provenance: Provenance = ""
    rerun: float | None = None
    note: str = ""

    @property
    def target(self) -> float | None:
        """What ours is compared with."""
        return self.rerun if self.published is None else self.published

    @property
    def ok(self) -> bool | None:
        """The verdict; None without a figure to compare with, without ours or a tolerance."""
        if self.target is None or self.tolerance is None or self.reproduced is None:
            return None
        return abs(self.reproduced - self.target) <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """The row for programs: `KEYS`, a figure that is none as None.

        An eye-read figure says so in its series, as it has no other place to.
        """
        row = {key: getattr(self, key) for key in KEYS}
        if self.provenance == "eye":
            row["series"] = f"{self.series} [eye]"
        return {key: None if _is_none(value) else value for key, value in row.items()}


def _is_none(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


@dataclass(frozen=True, slots=True)
class PublishedCurve:
    """A line of the plot; all of one length.

    Attributes:
        series: its name.
        x: positions.
        y: values.
        low: lower ends of a band around it; empty for none.
        high: upper ends.
    """

    series: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What a run gave.

    Attributes:
        rows: published beside reproduced.
        text: what was done and what follows, in Markdown paragraphs.
        curves: of the plot; without any, the rows are drawn.
        axes: titles of the plot's x and y axis.
        logarithmic: whether the plot's x axis is.
    """

    rows: tuple[PublishedRow, ...]
    text: str
    curves: tuple[PublishedCurve, ...] = ()
    axes: tuple[str, str] = ("", "")
    logarithmic: bool = False

    @property
    def failed(self) -> tuple[PublishedRow, ...]:
        """Rows whose verdict fails."""
        return tuple(row for row in self.rows if row.ok is False)


class Reproducible(Protocol):
    """What can be listed and run: an experiment, or a paper's table."""

    @property
    def name(self) -> str:
        """On the command line."""

    @property
    def title(self) -> str:
        """What it shows, in a line."""

    @property
    def source(self) -> str:
        """Paper, arXiv id, section or figure."""

    @property
    def kind(self) -> Kind:
        """See `RunnableResult`."""

    @property
    def cost(self) -> str:
        """Its measured cost in words."""

    def run(self, folders: Sequence[Path] = (), data: Path | None = None) -> Reproduced:
        """Published beside reproduced; a table is filled from sweep folders.

        Args:
            folders: of finished sweeps.
            data: the authors' own file, or a folder that holds it.
        """


@dataclass(frozen=True, slots=True)
class RunnableResult:
    """A published result that can be run.

    Attributes:
        name: on the command line.
        title: what it shows, in a line.
        source: paper, arXiv id, section or figure.
        seconds: measured cost on one core.
        kind: ``exact`` belongs to `reproduce --exact`, ``variant`` is offered beside it, ``claims``
            is the report on claims, ``data`` reads the authors' own file, ``table`` needs a model.
        function: ``module:function`` below `dpo_bench.reproduce`: takes the source, and the
            authors' file where it reads one; gives what was reproduced.
        data: which file of the authors it reads and where that is; empty where it needs none.
    """

    name: str
    title: str
    source: str
    seconds: float
    kind: Kind
    function: str
    data: str = ""

    @property
    def cost(self) -> str:
        """Its measured cost in words."""
        return f"{self.seconds:g} s"

    def run(self, folders: Sequence[Path] = (), data: Path | None = None) -> Reproduced:
        """Run it, on one thread: the tensors are tiny, and the bits do not vary.

        Raises:
            ConfigurationError: there are sweep folders to fill it from, but it needs none; or it
                needs the authors' file and has none, or the other way round.
        """
        if folders:
            raise ConfigurationError(f"--runs: {self.name} is computed here, not filled from runs.")
        if self.data:
            return recomputed(self.name, self.source, self.function, self.data, data)
        if data is not None:
            raise ConfigurationError(f"--data: {self.name} is computed here and reads no file.")
        with one_thread():
            return _of_source(self.source, find_function(self.function)(self.source))


def recomputed(name: str, source: str, function: str, wanted: str, data: Path | None) -> Reproduced:
    """What a function makes of the authors' own file.

    Args:
        name: what is reproduced.
        source: of its rows.
        function: ``module:function``, takes source and file.
        wanted: which file that is and where to fetch it.
        data: the file, or a folder that holds it.

    Raises:
        ConfigurationError: it was not given, or there is none.
        DataError: it is not what was wanted.
    """
    if data is None:
        raise ConfigurationError(
            f"{name} reads {wanted}: fetch it, and give the file or the folder with --data PATH."
        )
    if not data.exists():
        raise ConfigurationError(f"--data: there is no {data}.")
    return _of_source(source, find_function(function)(source, data))


def find_function(name: str) -> Callable[..., Reproduced]:
    """The function of this ``module:function`` below `dpo_bench.reproduce`."""
    module, _, function = name.partition(":")
    home = importlib.import_module(f"dpo_bench.reproduce.{module}")
    found: Callable[..., Reproduced] = getattr(home, function)
    return found


def _of_source(source: str, outcome: Reproduced) -> Reproduced:
    return replace(outcome, rows=tuple(replace(row, source=source) for row in outcome.rows))
