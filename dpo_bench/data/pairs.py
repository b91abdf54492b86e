"""Preference pairs of one source: read, brought to one form, validated row by row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dpo_bench.data.formats import PreferencePair, RowFormat
from dpo_bench.data.problems import RowProblem, require_some, stopping_error
from dpo_bench.data.rows import Place, Rows
from dpo_bench.data.sources import read_rows
from dpo_bench.errors import DataError
from dpo_bench.experiment.config import Data
from dpo_bench.storage import canonical_json

__all__ = ["LoadedPairs", "PreferencePair", "load_pairs", "pairs_from_rows"]


@dataclass(frozen=True, slots=True)
class LoadedPairs:
    """Valid pairs in the order of their rows.

    Attributes:
        pairs: the pairs.
        places: where each stands, for messages.
        dropped: rows that were left out, by reason.
    """

    pairs: Sequence[PreferencePair]
    places: Sequence[Place]
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def source(self) -> str:
        """What they were read from, for messages."""
        return self.places[0].file if self.places else "the data"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the pairs and their order: not of paths, formats or column names."""
        total = hashlib.sha256()
        for pair in self.pairs:
            margin = [] if pair.margin is None else [pair.margin]
            spelling = canonical_json([pair.prompt, pair.chosen, pair.rejected, *margin])
            total.update(spelling.encode() + b"\n")
        return total.hexdigest()

    def take(self, indices: Sequence[int]) -> LoadedPairs:
        """Some of the pairs, in the order of the indices; counts of dropped rows stay behind."""
        return LoadedPairs(
            [self.pairs[index] for index in indices], [self.places[index] for index in indices]
        )


def load_pairs(source: str, options: Data, split: str) -> LoadedPairs:
    """Read and validate preference pairs.

    Formats, recognised row by row: an explicit prompt, or none (then it is the responses' common
    prefix); plain text, or chat messages that repeat the prompt or leave it out.

    Args:
        source: file, folder or hub id.
        options: columns, templates, and what becomes of invalid rows.
        split: split of a folder or hub id.

    Raises:
        DataError: a column is missing, a row is invalid (unless ``options.invalid`` is ``drop``:
            then it is left out and counted), or no row is left.
        ConfigurationError: a malformed template.
        EnvironmentProblem: the source cannot be reached or read.
    """
    return pairs_from_rows(read_rows(source, split), options)


def pairs_from_rows(rows: Rows, options: Data) -> LoadedPairs:
    """Like `load_pairs`, for rows that are already read."""
    row_format = RowFormat.of(rows, options)
    pairs: list[PreferencePair] = []
    places: list[Place] = []
    dropped: Counter[str] = Counter()
    for row, place in zip(rows.records, rows.places, strict=True):
        try:
            pairs.append(row_format.pair(row))
        except RowProblem as problem:
            if options.invalid == "error":
                raise stopping_error(place, problem) from None
            dropped[problem.reason.value] += 1
        else:
            places.append(place)
    require_some(len(pairs), dropped, rows.source)
    if not any(row_format.finds_prompt(row) for row in rows.records):
        raise DataError(
            f"{rows.source}: no column {options.prompt_column!r}, and no two responses share a "
            "beginning that could be the prompt. Name the prompt's column as data.prompt_column."
        )
    return LoadedPairs(pairs, places, dict(dropped))
