"""Which pairs are trained on and which are held out.

What holds pairs out, in this order: ``data.heldout``; a split (or file) of the source that is named
``heldout``; beside training pairs from ``train_prefs`` the split ``test_prefs``; a share of the
prompts. Splits named ``test`` or ``validation`` are taken only when ``data.heldout`` names them.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_bench.data.pairs import LoadedPairs, load_pairs
from dpo_bench.data.sources import (
    has_heldout_split,
    local_path,
    looks_like_source,
    source_splits,
)
from dpo_bench.data.splits import HELDOUT, find_split, matching_heldout, no_such_split
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
        held = f"held out: {options.heldout_fraction:.3g} of the prompts"
    else:
        name, split = heldout_source
        own = options if name == source else options.model_copy(update={"subset": None})
        heldout = load_pairs(name, own, split)
        held = f"held out: split {split}" if name == source else f"held out: {name}"
    if options.pairs and options.pairs < len(training):
        training = replace(training.take(range(options.pairs)), dropped=training.dropped)
    return replace(training, description=f"{training.description}; {held}"), heldout


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
    return replace(training, dropped=pairs.dropped), heldout


def prompt_key(pair: PreferencePair) -> str:
    """SHA-256 (hex) of a pair's prompt."""
    return hashlib.sha256(canonical_json(pair.prompt).encode()).hexdigest()


def _heldout_source(source: str, options: Data) -> tuple[str, str] | None:
    """Source and split of the held-out pairs, or None: a share of the prompts."""
    name, subset = options.heldout, options.subset
    if name is None:
        return _own_heldout(source, options)
    if not looks_like_source(name):
        known = source_splits(source, subset)
        if name in known:
            if name == find_split(source, options.split, known):
                raise ConfigurationError(
                    f"data.split and data.heldout are both {name!r}: the held-out pairs would be "
                    "the training pairs."
                )
            return source, name
        if known and not Path(name).exists():
            raise no_such_split(source, name, known)
    return name, _split_of_other(name, source, options)


def _own_heldout(source: str, options: Data) -> tuple[str, str] | None:
    """The split of the training pairs' own source that holds the held-out pairs, if any does."""
    if options.split == HELDOUT:
        return None
    if has_heldout_split(source, options.subset):
        return source, HELDOUT
    known = source_splits(source, options.subset)
    match = matching_heldout(find_split(source, options.split, known), known) if known else None
    return None if match is None else (source, match)


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
