"""Benchmark preference losses: which one, at which strength, on your model and your data?"""

from dpo_bench.contract import PairLogps, get_loss, list_losses, load_plugins, register
from dpo_bench.plugins import import_neighbor

__version__ = "0.1.0"

__all__ = ["PairLogps", "__version__", "get_loss", "list_losses", "load_plugins", "register"]

import_neighbor(__name__, "losses")
import_neighbor(__name__, "runs")
