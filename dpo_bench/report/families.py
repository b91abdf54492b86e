"""What the registry knows of a loss by its name: its family and the paper that it implements.

A report may show losses that are not registered here (a plug-in, a loss of a later version): those
have no family and no paper, and nothing is made up for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dpo_bench.contract import get_loss, list_losses

OTHER = "not registered here"


@dataclass(frozen=True, slots=True)
class LossCard:
    """A loss as a reader needs it.

    Attributes:
        name: as in the results.
        family: of the registry; `OTHER` when unknown.
        paper: what it implements; empty when unknown.
    """

    name: str
    family: str
    paper: str


def loss_card(name: str) -> LossCard:
    """The card of a loss."""
    if name not in list_losses():
        return LossCard(name, OTHER, "")
    loss = get_loss(name)
    return LossCard(name, loss.family, loss.paper)


def loss_cards(names: Iterable[str]) -> tuple[LossCard, ...]:
    """A card for every name once, in order."""
    return tuple(loss_card(name) for name in dict.fromkeys(names))
