"""The published contract of a loss: `check_loss` tells the author of one whether it will do."""

from dpo_bench.testing.check import ContractError, check_loss
from dpo_bench.testing.checks import CHECKS, Check

__all__ = ["CHECKS", "Check", "ContractError", "check_loss"]
