"""Benchmark preference losses: which one, at which strength, on your model and your data?

The whole of the package's Python interface stands here; see ``docs/api.md``. Names are loaded when
they are first used: importing the package takes no torch and no time.
"""

from __future__ import annotations

from dpo_bench.search_path import working_directory_last

working_directory_last()  # before anything else is imported

import importlib
from typing import TYPE_CHECKING, Any

from dpo_bench.plugins import import_neighbor
from dpo_bench.version import __version__

if TYPE_CHECKING:
    from dpo_bench.api import (
        Sweep,
        compare,
        compare_across,
        evaluate,
        load_results,
        load_sweep,
        load_sweeps,
        run_sweep,
    )
    from dpo_bench.contract import PairLogps, get_loss, list_losses, load_plugins, register
    from dpo_bench.evaluation import hf_metrics as metrics
    from dpo_bench.experiment import Experiment
    from dpo_bench.testing import check_loss

_HOMES = {
    **dict.fromkeys(
        ("PairLogps", "get_loss", "list_losses", "load_plugins", "register"), "dpo_bench.contract"
    ),
    **dict.fromkeys(
        (
            "Sweep",
            "compare",
            "compare_across",
            "evaluate",
            "load_results",
            "load_sweep",
            "load_sweeps",
            "run_sweep",
        ),
        "dpo_bench.api",
    ),
    "Experiment": "dpo_bench.experiment",
    "check_loss": "dpo_bench.testing",
}
"""Public name -> the module that it comes from."""

__all__ = [
    "Experiment",
    "PairLogps",
    "Sweep",
    "__version__",
    "check_loss",
    "compare",
    "compare_across",
    "evaluate",
    "get_loss",
    "list_losses",
    "load_plugins",
    "load_results",
    "load_sweep",
    "load_sweeps",
    "metrics",
    "register",
    "run_sweep",
]

import_neighbor(__name__, "losses")
import_neighbor(__name__, "runs")


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name == "metrics":  # WinRate and KLToReference, for Hugging Face's evaluate
        return importlib.import_module("dpo_bench.evaluation.hf_metrics")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
