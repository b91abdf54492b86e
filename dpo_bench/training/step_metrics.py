"""Training metrics, kept on the device and read only now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

    from dpo_bench.contract import PairLogps

    Zone = Callable[[PairLogps], Tensor]

PAIR_METRICS = ("loss", "margin", "chosen_logratio", "rejected_logratio", "accuracy", "continued")
REFERENCE_METRICS = ("margin", "chosen_logratio", "rejected_logratio", "accuracy")
"""Those that are relative to the reference."""
CONTINUED = "continued"
"""Share of the pairs at which the loss's formula is continued by something else, if it says so."""
METRICS = (*PAIR_METRICS, "gradient_norm")


def pair_sums(losses: Tensor, logps: PairLogps, continued: Zone | None = None) -> Tensor:
    """Sums over the pairs of a pass, in the order of `PAIR_METRICS`; shape [6], no gradient.

    What is relative to a reference that is not known (NaN) is NaN, and so is where the loss's
    formula is continued when it does not say (None).
    """
    with torch.no_grad():
        unknown = losses.new_full((), torch.nan)
        margin = logps.margin
        won = torch.where(margin.isnan(), margin, (margin > 0) + 0.5 * (margin == 0))
        return torch.stack(
            [
                losses.sum(),
                margin.sum(),
                logps.chosen_logratio.sum(),
                logps.rejected_logratio.sum(),
                won.sum(),
                continued(logps).sum() if continued else unknown,
            ]
        ).float()


class MetricLog:
    """One vector of metrics per step, collected on the device."""

    def __init__(self, earlier: Tensor | None = None) -> None:
        self._read = [] if earlier is None else list(earlier)
        self._waiting: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Remember a step's metrics, shape [metric], without waiting for the device."""
        self._waiting.append(values)

    def read(self) -> Tensor:
        """Fetch what waits on the device; all metrics so far, on the CPU, shape [step, metric]."""
        if self._waiting:
            self._read += list(torch.stack(self._waiting).cpu())
            self._waiting.clear()
        return torch.stack(self._read) if self._read else torch.empty(0, len(METRICS))

    def table(self) -> pd.DataFrame:
        """A row per step; ``step`` counts from 0, the values are those before its update."""
        import pandas as pd

        table = pd.DataFrame(self.read().double().numpy(), columns=list(METRICS))
        table.insert(0, "step", range(len(table)))
        return table
