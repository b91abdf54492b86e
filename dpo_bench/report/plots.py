"""Single pictures for Python: what the report draws, on axes of one's own."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import BY_NAME, REWARD, WIN_RATE, Metric
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts, read_curves
from dpo_bench.analysis.results import SweepResults
from dpo_bench.analysis.series import group_series
from dpo_bench.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Plots:
    """Pictures of a sweep. Each draws on the given axes, or on new ones, and returns them."""

    def __init__(self, results: SweepResults) -> None:
        self.results = results

    @cached_property
    def series(self) -> tuple[LossCurve, ...]:
        """The loss curves."""
        return group_series(self.results)

    @cached_property
    def curves(self) -> CurvesOnPrompts | None:
        """What losses are compared by, prompt by prompt; None where they are not."""
        found = read_curves(self.results, self.series)
        return None if isinstance(found, str) else found

    def reward_vs_kl(self, ax: Axes | None = None) -> Axes:
        """Mean reward against KL, with the optimal frontier and best-of-n where they are known."""
        from dpo_bench.report.figures.curves import plot_frontier

        axes = self._axes(ax, REWARD)
        plot_frontier(axes, self.results, self.series, self.curves)
        return axes

    def win_rate_vs_kl(self, ax: Axes | None = None) -> Axes:
        """Win rate against the reference, against KL."""
        return self.metric_vs_kl(WIN_RATE.name, ax)

    def metric_vs_kl(self, metric: str, ax: Axes | None = None) -> Axes:
        """Any metric against KL.

        Raises:
            ConfigurationError: there is no such metric, or no trial has it.
        """
        from dpo_bench.report.figures.curves import plot_against_kl

        found = self._metric(metric)
        axes = self._axes(ax, found)
        plot_against_kl(axes, self.results, self.series, self.curves, found)
        return axes

    def heat_map(self, metric: str, ax: Axes | None = None) -> Axes:
        """A metric by loss and order of strength.

        Raises:
            ConfigurationError: there is no such metric, or no trial has it.
        """
        from dpo_bench.report.figures.panels import plot_heat_map
        from dpo_bench.report.table_values import heat_map

        found = self._metric(metric)
        axes = self._axes(ax, found)
        plot_heat_map(axes, heat_map(self.results, self.series, found))
        return axes

    def _metric(self, name: str) -> Metric:
        if name not in BY_NAME:
            raise ConfigurationError(
                f"there is no metric {name!r}: there are {', '.join(BY_NAME)}."
            )
        return BY_NAME[name]

    def _axes(self, ax: Axes | None, metric: Metric) -> Axes:
        if all(trial.value(metric.name) is None for trial in self.results.done):
            raise ConfigurationError(f"no trial of {self.results.name} has {metric.phrase}.")
        if ax is not None:
            return ax
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(layout="constrained")
        return axes
