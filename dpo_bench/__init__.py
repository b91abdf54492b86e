"""Benchmark preference losses: which one, at which strength, on your model and your data?"""

from dpo_bench.search_path import working_directory_last

working_directory_last()  # before anything else is imported

from dpo_bench.contract import PairLogps, get_loss, list_losses, load_plugins, register  # noqa: E402
from dpo_bench.mount import mount_neighbour  # noqa: E402

__version__ = "0.1.0"

__all__ = ["PairLogps", "__version__", "get_loss", "list_losses", "load_plugins", "register"]

mount_neighbour(__name__, "losses")
mount_neighbour(__name__, "runs")
