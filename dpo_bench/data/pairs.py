"""Preference pairs of one source: read, brought to one form, validated row by row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dpo_bench.data.formats import PreferencePair, RowFormat
from dpo_bench.data.problems import NO_PREFERENCE, RowProblem, require_some, stopping_error
from dpo_bench.data.rows import Rows, SourceLocation
from dpo_bench.data.shapes import Made, find_shape
from dpo_bench.data.sources import read_rows
from dpo_bench.data.wrapping import as_chat
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
        description: how they were read, in plain words.
        duplicates: pairs that say the same as an earlier one; they stay.
    """

    pairs: Sequence[PreferencePair]
    places: Sequence[SourceLocation]
    dropped: Mapping[str, int] = field(default_factory=dict)
    description: str = ""
    duplicates: int = 0

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
            total.update(_spelling(pair).encode() + b"\n")
        return total.hexdigest()

    def take(self, indices: Sequence[int]) -> LoadedPairs:
        """Some of the pairs, in the order of the indices; counts of dropped rows stay behind."""
        pairs = [self.pairs[index] for index in indices]
        return replace(
            self,
            pairs=pairs,
            places=[self.places[index] for index in indices],
            dropped={},
            duplicates=_duplicates(pairs),
        )


def _spelling(pair: PreferencePair) -> str:
    """One spelling per content of a pair; what a pair lacks leaves no trace in it."""
    parts: list[Any] = [pair.prompt, pair.chosen, pair.rejected]
    if pair.margin is not None:
        parts.append(pair.margin)
    further = {"system": pair.system, "template_arguments": pair.template_arguments}
    if any(further.values()):
        parts.append({name: value for name, value in further.items() if value})
    return canonical_json(parts)


def _duplicates(pairs: Sequence[PreferencePair]) -> int:
    """Pairs that differ from an earlier one in no text; their margins may."""
    texts = {
        repr((pair.prompt, pair.chosen, pair.rejected, pair.system, pair.template_arguments))
        for pair in pairs
    }
    return len(pairs) - len(texts)


def load_pairs(source: str, options: Data, split: str) -> LoadedPairs:
    """Read and validate preference pairs.

    Recognized by their columns: pairs, and data of other shapes that pairs are made of. Recognized
    row by row: plain text, or chat messages that repeat the prompt or leave it out.

    Args:
        source: file, folder or hub id.
        options: columns, templates, and what becomes of invalid rows.
        split: split of a folder or hub id.

    Raises:
        DataError: a column is missing, nothing is a prompt, a row is invalid (unless
            ``options.invalid`` is ``drop``: then it is left out and counted), or no row is left.
        ConfigurationError: a malformed template, or an unknown shape.
        EnvironmentProblem: the source cannot be reached or read.
    """
    return pairs_from_rows(read_rows(source, split, options.subset), options)


def pairs_from_rows(rows: Rows, options: Data) -> LoadedPairs:
    """Like `load_pairs`, for rows that are already read."""
    made, how = _made(rows, options)
    dropped: Counter[str] = Counter()
    kept: list[tuple[SourceLocation, Mapping[str, Any]]] = []
    for place, row in made:
        if isinstance(row, RowProblem):
            _leave_out(place, row, options, dropped)
        else:
            kept.append((place, row))
    require_some(len(kept), dropped, rows.source)
    places, records = zip(*kept, strict=True)
    row_format = RowFormat.of(Rows(rows.source, records, places), options, how)
    pairs: list[PreferencePair] = []
    stands: list[SourceLocation] = []
    for place, record in kept:
        try:
            pairs.append(_in_style(row_format.pair(record), options))
        except RowProblem as problem:
            _leave_out(place, problem, options, dropped)
        else:
            stands.append(place)
    require_some(len(pairs), dropped, rows.source)
    description = "; ".join((*rows.notes, row_format.description))
    return LoadedPairs(pairs, stands, dict(dropped), description, _duplicates(pairs))


def _made(rows: Rows, options: Data) -> tuple[Iterable[Made], str]:
    """Rows that are pairs, made so where they have another shape; and then how, for people."""
    shape = find_shape(rows, options)
    if shape is None:
        return zip(rows.places, map(dict, rows.records), strict=True), ""
    return shape.convert(rows), shape.description


def _in_style(pair: PreferencePair, options: Data) -> PreferencePair:
    """A pair as ``data.chat`` says: of plain text that stays plain nothing goes to a template."""
    if options.chat == "wrap":
        return as_chat(pair)
    if isinstance(pair.prompt, str):
        return replace(pair, system=None, template_arguments={})
    return pair


def _leave_out(
    place: SourceLocation, problem: RowProblem, options: Data, dropped: Counter[str]
) -> None:
    """Count a row that cannot be used, or stop because of it."""
    if options.invalid == "error" and problem.reason not in NO_PREFERENCE:
        raise stopping_error(place, problem) from None
    dropped[problem.reason.value] += 1
