"""All that a loss file needs: the record it reads and the registry it enters."""

from dpo_bench.contract.loss import Loss, Positive, Range
from dpo_bench.contract.record import PairLogps
from dpo_bench.contract.registry import (
    UnknownLossError,
    get_loss,
    list_losses,
    load_plugins,
    register,
    source_digest,
)

__all__ = [
    "Loss",
    "PairLogps",
    "Positive",
    "Range",
    "UnknownLossError",
    "get_loss",
    "list_losses",
    "load_plugins",
    "register",
    "source_digest",
]
