"""The registry as it is, put back afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dpo_bench import list_losses
from dpo_bench.contract import registry


@contextmanager
def restored_registry() -> Iterator[None]:
    """Forget, at the end of the block, every loss and every module that was loaded in it."""
    list_losses()
    losses, aliases, modules = dict(registry._losses), dict(registry._aliases), set(sys.modules)
    try:
        yield
    finally:
        registry._losses.clear()
        registry._losses.update(losses)
        registry._aliases.clear()
        registry._aliases.update(aliases)
        for name in set(sys.modules) - modules:
            if name.startswith("dpo_bench_plugins_"):
                del sys.modules[name]
