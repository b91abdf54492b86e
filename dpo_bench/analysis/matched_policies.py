"""Which policies stand for their losses where whole policies are needed, not figures at a KL.

Responses side by side, the round robin and the length control cannot be read off between policies.
They take each loss's policy (after training) whose KL is nearest to the middle one of the KLs at
which losses are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.kl_axis import position
from dpo_bench.analysis.loss_curves import GridPoint, LossCurve
from dpo_bench.analysis.metrics import KL
from dpo_bench.analysis.results import Trial
from dpo_bench.wording import number


@dataclass(frozen=True, slots=True)
class MatchedPolicies:
    """Each loss at one KL, as nearly as its grid allows.

    Attributes:
        kl: nats: the middle level of the comparison; without one, the middle of the KLs that all
            losses cover, or that any does.
        settings: each loss that finished with its nearest strength.
        compared: the indices of the series that cover that KL; without a comparison, all.
    """

    kl: float
    settings: tuple[tuple[LossCurve, GridPoint], ...]
    compared: frozenset[int]

    @property
    def players(self) -> list[tuple[LossCurve, Trial]]:
        """Of each loss that covers the KL, its policy of the first seed."""
        return [(one, s.done[0]) for one, s in self.settings if one.index in self.compared]

    @property
    def title(self) -> str:
        """What showing the settings beside each other is called."""
        return f"each loss nearest to KL {number(self.kl, KL.decimals)}"

    @property
    def whose(self) -> str:
        """Whose policies the players are, in words."""
        where = f"whose KL is nearest to {number(self.kl, KL.decimals)} nats"
        if left_out := len(self.settings) - len(self.compared):
            return f"of each loss that covers it the policy {where} ({left_out} do not)"
        return f"of each loss the policy {where}"


def matched_policies(
    series: Sequence[LossCurve], comparison: MatchedComparison | str
) -> MatchedPolicies:
    """Pick each loss's policy: after training, nearest to the middle of the compared KLs."""
    known = [(one, [s for s in one.settings if s.done]) for one in series if one.on_curve]
    if isinstance(comparison, str):
        kl, compared = _middle(series), frozenset(one.index for one, _ in known)
    else:
        kl, compared = comparison.middle.kl, frozenset(comparison.middle.values)
    nearest = tuple((one, _nearest(settings, kl)) for one, settings in known)
    return MatchedPolicies(kl, nearest, compared)


def _middle(series: Sequence[LossCurve]) -> float:
    """The middle (nats) of the KLs that all series cover, or of those that any covers."""
    ranges = []
    for one in series:
        kls = [kl for setting in one.settings if (kl := setting.mean(KL.name)) is not None]
        if kls:
            ranges.append((min(kls), max(kls)))
    if not ranges:
        return 0.0
    low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
    if low > high:
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return ((position(low) + position(high)) / 2) ** 2


def _nearest(settings: Sequence[GridPoint], target: float) -> GridPoint:
    """The setting whose KL is nearest to a KL (nats), on the scale of the KL axis."""
    return min(
        settings,
        key=lambda setting: abs(position(setting.mean(KL.name) or 0.0) - position(target)),
    )
