"""DiscoPOP's IMDb sweep, run by run, and what the paper claims from it.

A row of the authors' table is one generation seed of one trained checkpoint. What differs between
two rows of a cell is the sampling of responses: an interval over them says how sure a checkpoint's
figures are, and nothing of what training the same loss again would give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpo_bench.analysis.compare import comparison_frame
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.external import from_frame
from dpo_bench.analysis.metrics import REWARD
from dpo_bench.errors import DataError
from dpo_bench.reproduce.record import CODES, PublishedCurve, PublishedRow, Reproduced, Word

FILES = ("scripts/plotting/imdb_results_2.csv", "imdb_results_2.csv", "imdb_results.csv")
COLUMNS = ("loss", "beta", "reward", "kl_divergence", "seed")
CONVERGED = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""the betas of the paper's figure"""
LOW, MIDDLE, HIGH = (0.025, 0.05, 0.1), (0.05, 0.1), (0.5, 1.0)
UNSTABLE = (0.01, 2.5, 5.0)
LRML, DPO = "lrml", "dpo"
AGAIN = ", second series"
TITLES = {"dpo": "DPO", "hinge": "SLiC", "aqfl": "AQFL", "padll": "PADLL", "lrml": "LRML"}


def run(_source: str, data: Path) -> Reproduced:
    """Judge the paper's claims at the precision of ten generations a checkpoint.

    Args:
        data: the table, a folder that holds it, or a checkout of SakanaAI/DiscoPOP.

    Raises:
        DataError: there is no such table, or it lacks a column.
    """
    sweep = Sweep.read(data)
    rows = [row for claim in _claims(sweep) for row in claim.rows()]
    return Reproduced(
        (*rows, *_again(sweep)), TEXT, tuple(_curves(sweep)), ("KL per token", "reward")
    )


@dataclass(frozen=True, slots=True)
class Sweep:
    """The runs that gave a figure.

    Attributes:
        runs: loss, beta, seed, reward, kl_divergence (nats per token).
        failed: loss and beta of each run that gave none.
    """

    runs: pd.DataFrame
    failed: pd.DataFrame

    @classmethod
    def read(cls, data: Path) -> Sweep:
        """From the table, a folder or a checkout.

        A second row of the same loss, beta and seed belongs to another series: see `TEXT`.

        Raises:
            DataError: there is no such table, it lacks a column, or holds what is no number.
        """
        places = [data] if data.is_file() else [data / name for name in FILES]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise DataError(f"{data} holds none of {', '.join(FILES)}.")
        try:
            table = pd.read_csv(file)
            if missing := [name for name in COLUMNS if name not in table]:
                raise DataError(f"{file} lacks the columns {', '.join(missing)}.")
            numbers = {name: table[name].astype(float) for name in COLUMNS[1:]}
        except ValueError as error:
            raise DataError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
        table = table[["loss"]].assign(**numbers)
        series = table.groupby(["loss", "beta", "seed"]).cumcount()
        table["loss"] = table["loss"].where(series == 0, table["loss"] + AGAIN)
        empty = table[["reward", "kl_divergence"]].isna().any(axis=1)
        return cls(table[~empty], table[empty])

    def cell(self, loss: str, beta: float, column: str) -> pd.Series[float]:
        """One figure of the runs of one checkpoint.

        Raises:
            DataError: there are fewer than two, so that nothing says how sure it is.
        """
        own = self.runs[(self.runs["loss"] == loss) & np.isclose(self.runs["beta"], beta)]
        if len(own) < 2:
            raise DataError(f"the table has {len(own)} runs of {loss}, beta {beta:g}: not 2.")
        return own[column]

    def has(self, loss: str, beta: float) -> bool:
        """Whether a checkpoint has a figure at all."""
        return bool(((self.runs["loss"] == loss) & np.isclose(self.runs["beta"], beta)).any())


@dataclass(frozen=True, slots=True)
class Part:
    """A difference that a claim says is above 0.

    Attributes:
        series: what it is of.
        x: at which setting.
        found: the difference with its 95% interval.
        above: whether it is separated from 0.
        below: whether it is separated from 0 in the other direction, allowing for the number of the
            claim's parts.
    """

    series: str
    x: str
    found: Estimate
    above: bool
    below: bool = False

    def row(self) -> PublishedRow:
        """The evidence as a row."""
        own = self.found
        interval = f"[{own.low:.4f}, {own.high:.4f}]" if own.has_interval else ""
        where = " ".join(filter(None, (self.x, interval)))
        return PublishedRow("", self.series, where, None, own.value)


@dataclass(frozen=True, slots=True)
class Claim:
    """What the paper says, in parts that must all hold.

    Attributes:
        text: the claim.
        parts: the differences that it names.
        of: whose result it is held against.
    """

    text: str
    parts: tuple[Part, ...]
    of: str = "the authors"

    @property
    def word(self) -> Word:
        """Holds where every part is separated from 0; fails where one is separated below 0.

        That all hold by luck is rarer than that one does, so that 95% is enough for each; that some
        part of many falls below is not, so that the level is divided among them.
        """
        if all(part.above for part in self.parts):
            return "holds"
        return "fails" if any(part.below for part in self.parts) else "tie"

    def rows(self) -> Iterator[PublishedRow]:
        """The claim with its verdict, then the differences it rests on."""
        word = self.word
        yield PublishedRow(
            "", f"CLAIM {self.text}", f"{self.of}: holds", 1.0, CODES[word], None, "src", None, word
        )
        yield from (part.row() for part in self.parts)


def welch(first: pd.Series[float], second: pd.Series[float], level: float = 0.95) -> Estimate:
    """Difference of two means, with Welch's t interval.

    >>> import pandas as pd
    >>> welch(pd.Series([2.0, 4.0]), pd.Series([1.0, 1.5])).value
    1.75
    """
    from scipy import stats

    value = float(first.mean() - second.mean())
    if not first.std() and not second.std():
        return Estimate(value, value, value)
    ends = stats.ttest_ind(first, second, equal_var=False).confidence_interval(level)
    return Estimate(value, float(ends.low), float(ends.high))


def _parts(
    sweep: Sweep, column: str, pairs: Sequence[tuple[tuple[str, float], tuple[str, float]]]
) -> tuple[Part, ...]:
    """First minus second of each pair of checkpoints, each a loss and a beta."""
    level = 1 - 0.05 / len(pairs)
    name = {"reward": "reward", "kl_divergence": "KL per token"}[column]
    found = []
    for one, other in pairs:
        cells = sweep.cell(*one, column), sweep.cell(*other, column)
        same = one[1] == other[1]
        titles = [_title(*side, with_beta=not same) for side in (one, other)]
        at = f"beta {one[1]:g}" if same else ""
        series = f"{name}, {titles[0]} minus {titles[1]}"
        own, wide = welch(*cells), welch(*cells, level=level)
        found.append(Part(series, at, own, own.low > 0, wide.high < 0))
    return tuple(found)


def _title(loss: str, beta: float, *, with_beta: bool) -> str:
    base = loss.removesuffix(AGAIN)
    name = TITLES.get(base, base.upper()) + loss[len(base) :]
    return f"{name} beta {beta:g}" if with_beta else name


def _claims(sweep: Sweep) -> Iterator[Claim]:
    """Section 5.3 and figures 5 and 8, then section 6.2."""
    both = (LRML, DPO)
    yield Claim(
        "LRML earns more reward than DPO at beta .025, .05, .1",
        _parts(sweep, "reward", [((LRML, beta), (DPO, beta)) for beta in LOW]),
    )
    yield Claim(
        "LRML stays nearer to the reference than DPO at beta .025, .05, .1",
        _parts(sweep, "kl_divergence", [((DPO, beta), (LRML, beta)) for beta in LOW]),
    )
    yield Claim(
        "LRML's frontier lies above DPO's: more reward at equal KL",
        _frontier(sweep),
        "the authors' figure 5, as we read it",
    )
    steps = [((loss, low), (loss, high)) for loss in both for low, high in ((0.25, 0.5), (0.5, 1))]
    yield Claim("at beta .5 and 1 the rewards of both fall", _parts(sweep, "reward", steps))
    yield Claim(
        "at beta .5 and 1 the KL of both rises",
        _parts(sweep, "kl_divergence", [(later, earlier) for earlier, later in steps]),
    )
    yield Claim(
        "LRML keeps a higher reward than DPO at beta .5 and 1",
        _parts(sweep, "reward", [((LRML, beta), (DPO, beta)) for beta in HIGH]),
    )
    rivals = (DPO, "hinge", "aqfl", "aqfl" + AGAIN, "padll")
    yield Claim(
        "LRML earns slightly more than DPO, SLiC, AQFL and PADLL at beta .05 and .1",
        _parts(
            sweep,
            "reward",
            [
                ((LRML, beta), (rival, beta))
                for beta in MIDDLE
                for rival in rivals
                if sweep.has(rival, beta)
            ],
        ),
    )
    yield Claim("LRML does not converge at beta .01 and from 2.5 on", tuple(_unstable(sweep)))


def _frontier(sweep: Sweep) -> tuple[Part, ...]:
    """LRML minus DPO at the KLs of LRML's three lowest betas, read off both curves."""
    runs = sweep.runs[sweep.runs["loss"].isin((LRML, DPO)) & sweep.runs["beta"].isin(CONVERGED)]
    table = runs.rename(columns={"beta": "strength", "kl_divergence": "kl"})
    levels = [float(sweep.cell(LRML, beta, "kl_divergence").mean()) for beta in LOW]
    found = comparison_frame(from_frame(table), REWARD, baseline=DPO, kl=levels)
    return tuple(_compared(row) for row in found.to_dict("records"))


def _compared(row: Mapping[Any, Any]) -> Part:
    """A row of the comparison; its verdict allows for the number of KLs."""
    own = Estimate(float(row["difference"]), float(row["low"]), float(row["high"]))
    series = f"reward, LRML minus DPO: {row['verdict']}"
    at = f"KL {row['kl']:.2f} per token"
    return Part(series, at, own, row["verdict"] == "better", row["verdict"] == "worse")


def _unstable(sweep: Sweep) -> Iterator[Part]:
    """By how much less it earns than at beta 1, or how many runs have no figure at all."""
    failed = sweep.failed["beta"][sweep.failed["loss"] == LRML]
    for beta in UNSTABLE:
        if sweep.has(LRML, beta):
            yield from _parts(sweep, "reward", [((LRML, max(HIGH)), (LRML, beta))])
        elif count := int(np.isclose(failed, beta).sum()):
            yield Part("LRML, runs without a figure", f"beta {beta:g}", Estimate(count), True)


def _again(sweep: Sweep) -> Iterator[PublishedRow]:
    """The second series of a loss minus its first, where there is one."""
    twice = sorted({name for name in sweep.runs["loss"] if name.endswith(AGAIN)})
    for loss in twice:
        first = loss.removesuffix(AGAIN)
        for column in ("reward", "kl_divergence"):
            betas = [beta for beta in (0.01, *CONVERGED) if sweep.has(loss, beta)]
            pairs = [((loss, beta), (first, beta)) for beta in betas]
            yield from (part.row() for part in _parts(sweep, column, pairs))


def _curves(sweep: Sweep) -> Iterable[PublishedCurve]:
    shown = sweep.runs[sweep.runs["beta"].isin(CONVERGED)]
    for loss in ("dpo", "hinge", "aqfl", "padll", "lrml"):
        own = shown[shown["loss"] == loss].groupby("beta")[["kl_divergence", "reward"]].mean()
        points = own.sort_values("kl_divergence")
        yield PublishedCurve(TITLES[loss], tuple(points["kl_divergence"]), tuple(points["reward"]))


TEXT = """\
The authors' table has a row per run: ten generation seeds of each trained checkpoint. The verdicts
are therefore about *these policies* on the authors' prompts: no seed here trains anew, and another
training of the same loss may come out otherwise. AQFL shows by how much: its betas occur twice in
the table, and where the two series differ by far more than generation seeds do, that is what one
more checkpoint, or one more evaluation, is worth. The paper's figure averages them; here each is a
policy of its own. The KL is a **mean per token over prompt and response**, no sequence KL; it is
compared with no other KL of this project.

Claims are those of section 5.3, figure 5 and section 6.2, each *held against* what the authors
published. A claim *holds* when every difference that it names is separated from 0 in its direction
(95%, Welch's t over generation seeds; at equal KL the comparison of this project), *fails* when one
is separated in the other direction (the level divided among the claim's differences), and is a
*tie* otherwise. At equal beta two losses lie at different KLs, so that more reward there need not
be a better loss; the claim on the frontier is the one that compares at equal KL."""
