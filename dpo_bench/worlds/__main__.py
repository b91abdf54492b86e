"""Build the parts of the world that ship with the package: ``python -m dpo_bench.worlds``.

They are the model, the held-out pairs and enough training pairs for every experiment of ``runs/``;
labels are put on them when they are used. On one machine with the same versions the same bytes come
out; on another processor the weights differ in their last bits, and then the texts. So whoever
builds them anew makes another world, and the figures of ``reports/`` must be made anew with it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from dpo_bench.processor import processor
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import CACHE_VARIABLE, cache_root, seal, write_json
from dpo_bench.worlds import WORLDS
from dpo_bench.worlds.cache import RECORD, SHIPPED, built_afresh, read_record
from dpo_bench.worlds.reference_policy import reference_folder
from dpo_bench.worlds.responses import PairSampler, read_pairs

SEED = 0
PAIRS = 2048
"""Training pairs that ship; the default of ``world.pairs`` is 1536."""


def build(folder: Path, progress: Progress = quiet) -> None:
    """Put every part that ships into a folder, which is replaced."""
    with _empty_cache(), built_afresh():
        for name, recipe in WORLDS.items():
            reference = reference_folder(name, recipe, SEED, progress)
            sampler = PairSampler(name, reference, SEED, progress)
            sampler.training(PAIRS, read_pairs(sampler.heldout()))
        shutil.rmtree(folder, ignore_errors=True)
        for part in sorted((cache_root() / "worlds").iterdir()):
            shipped = folder / part.name.rpartition("-")[0]
            shutil.copytree(part, shipped)
            record = {key: read_record(part)[key] for key in ("settings", "facts", "files")}
            write_json(shipped / RECORD, record | {"machine": machine()})
            seal(shipped)


def machine() -> dict[str, str]:
    """What the last bits of the weights depend on beside the source: versions and processor."""
    libraries = ("torch", "transformers", "tokenizers", "numpy", "vaderSentiment")
    return {"processor": processor()} | {library: version(library) for library in libraries}


@contextmanager
def _empty_cache() -> Iterator[None]:
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE_VARIABLE] = cache
        try:
            yield
        finally:
            del os.environ[CACHE_VARIABLE]
            if before is not None:
                os.environ[CACHE_VARIABLE] = before


def _tell(phase: str, done: int, total: int) -> None:
    if done == total:
        print(phase)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if sys.argv[1:] else SHIPPED
    build(target, _tell)
    print(f"the parts that ship are in {target}")
