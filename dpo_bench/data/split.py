"""Which pairs are trained on and which are held out.

What holds pairs out, in this order: ``data.heldout``; a split (or file) of the source that is named
``heldout``; a share of the prompts. Splits named ``test`` or ``validation`` are taken only when
``data.heldout`` names them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_bench.data.folders import HELDOUT, no_such_split
from dpo_bench.data.pairs import LoadedPairs, load_pairs
from dpo_bench.data.sources import (
    has_heldout_split,
    local_path,
    looks_like_source,
    source_splits,
)
from dpo_bench.errors import ConfigurationError, DataError
from dpo_bench.experiment.config import Data
from dpo_bench.storage import canonical_json

if TYPE_CHECKING:
    from dpo_bench.data.formats import PreferencePair


def load_split_pairs(source: str, options: Data) -> tuple[LoadedPairs, LoadedPairs]:
    """Training pairs (all that the options ask for) and held-out pairs of a source.

    Raises:
        DataError: no such split, invalid rows, or too few prompts to hold any out.
        ConfigurationError: training and held-out pairs would be the same.
        EnvironmentProblem: a source cannot be read or reached.
    """
    heldout_source = _heldout_source(source, options)
    training = load_pairs(source, options, options.split)
    if heldout_source is None:
        training, heldout = split_by_prompt(training, options.heldout_fraction)
    else:
        heldout = load_pairs(heldout_source[0], options, heldout_source[1])
    if options.pairs and options.pairs < len(training):
        limited = training.take(range(options.pairs))
        training = LoadedPairs(limited.pairs, limited.places, training.dropped)
    return training, heldout


def split_by_prompt(pairs: LoadedPairs, fraction: float) -> tuple[LoadedPairs, LoadedPairs]:
    """Hold out a share of the distinct prompts with all their pairs.

    The prompts with the smallest SHA-256 are held out: which ones depends on their content alone,
    not on the order of the rows or on a seed, and most stay held out when the data grows.

    Args:
        pairs: all pairs.
        fraction: share of the distinct prompts, in (0, 1); at least one is held out.

    Returns:
        Training and held-out pairs, each in the order of the rows; the counts of dropped rows go
        with the training pairs.

    Raises:
        DataError: fewer than two distinct prompts.
    """
    keys = [prompt_key(pair) for pair in pairs.pairs]
    prompts = sorted(set(keys))
    if len(prompts) < 2:
        raise DataError(
            f"{pairs.source}: all pairs have the same prompt, so that none can be held out; name "
            "held-out pairs as data.heldout."
        )
    count = min(max(1, round(fraction * len(prompts))), len(prompts) - 1)
    held = set(prompts[:count])
    training = pairs.take([row for row, key in enumerate(keys) if key not in held])
    heldout = pairs.take([row for row, key in enumerate(keys) if key in held])
    return LoadedPairs(training.pairs, training.places, pairs.dropped), heldout


def prompt_key(pair: PreferencePair) -> str:
    """SHA-256 (hex) of a pair's prompt."""
    return hashlib.sha256(canonical_json(pair.prompt).encode()).hexdigest()


def _heldout_source(source: str, options: Data) -> tuple[str, str] | None:
    """Source and split of the held-out pairs, or None: a share of the prompts."""
    name = options.heldout
    if name is None:
        if options.split == HELDOUT or not has_heldout_split(source):
            return None
        return source, HELDOUT
    if not looks_like_source(name):
        known = source_splits(source)
        if name in known:
            if name == options.split:
                raise ConfigurationError(
                    f"data.split and data.heldout are both {name!r}: the held-out pairs would be "
                    "the training pairs."
                )
            return source, name
        if known and not Path(name).exists():
            raise no_such_split(source, name, known)
    return name, _split_of_other(name, source, options)


def _split_of_other(name: str, source: str, options: Data) -> str:
    """The split of another source: the one that training uses, or the only one there is."""
    path, own = local_path(name), local_path(source)
    if path is not None and own is not None and path.samefile(own):
        raise ConfigurationError(
            f"data.heldout = {name!r} is the source of the training pairs; name a split of it, or "
            "leave it out to hold out a share of the prompts."
        )
    splits = source_splits(name)
    return splits[0] if len(splits) == 1 else options.split
