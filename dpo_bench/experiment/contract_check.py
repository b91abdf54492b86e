"""Losses that did not come with the program are checked before anything is trained with them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from dpo_bench.contract import Loss
from dpo_bench.contract.registry import parts_of
from dpo_bench.deadline import DeadlineError, deadline
from dpo_bench.errors import ConfigurationError

SECONDS_TO_CHECK = 60.0


def require_contract(losses: Iterable[Loss]) -> None:
    """Check every loss among these, and among their parts, that did not come with the program.

    Raises:
        ConfigurationError: one breaks the contract; the message lists how.
    """
    own = {part.name: part for loss in losses for part in parts_of(loss) if not _is_shipped(part)}
    if not own:
        return
    from dpo_bench.testing import ContractError, check_loss  # brings torch

    for loss in own.values():
        try:
            with deadline(SECONDS_TO_CHECK):
                check_loss(loss)
        except DeadlineError as error:
            raise ConfigurationError(
                f"{loss.name} ({loss.location}): its check is {error}; the checks take a fraction "
                "of a second of a loss that returns."
            ) from error
        except ContractError as error:
            raise ConfigurationError(
                f"{error}\nMend it, or name in register(..., departs_from=(...)) what it departs "
                "from on purpose."
            ) from error


def _is_shipped(loss: Loss) -> bool:
    home = Path(next(iter(importlib.import_module("dpo_bench.losses").__path__))).resolve()
    return home in loss.source_file.parents
