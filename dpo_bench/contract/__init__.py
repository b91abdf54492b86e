"""All that a loss file needs: the record it reads and the registry it enters."""

from dpo_bench.contract.composition import Modifier, list_modifiers, register_modifier
from dpo_bench.contract.loss import Loss, Objective, Positive, Range
from dpo_bench.contract.record import PairLogps
from dpo_bench.contract.registry import (
    UnknownLossError,
    get_loss,
    list_losses,
    load_plugins,
    register,
    source_digest,
)
from dpo_bench.contract.requirements import NEEDS, Need

__all__ = [
    "NEEDS",
    "Loss",
    "Modifier",
    "Need",
    "Objective",
    "PairLogps",
    "Positive",
    "Range",
    "UnknownLossError",
    "get_loss",
    "list_losses",
    "list_modifiers",
    "load_plugins",
    "register",
    "register_modifier",
    "source_digest",
]
