"""Rows of a table as they were read, each with the place where it stands."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class SourceLocation(NamedTuple):
    """Where a row stands, for messages.

    Attributes:
        file: the file, folder or hub id.
        number: of the row or line, from 1.
        unit: ``line`` for a file of JSON lines, else ``row`` (a table's header is not counted).
    """

    file: str
    number: int
    unit: str = "row"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in their order.

    Attributes:
        source: what they were read from, for messages.
        records: the rows, as column -> value; a row may lack columns that others have.
        places: where each row stands.
        notes: what was decided in finding them, for people.
    """

    source: str
    records: Sequence[Mapping[str, Any]]
    places: Sequence[SourceLocation]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that some row has, in the order in which they appear."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.records)))

    @classmethod
    def numbered(cls, source: str, records: Sequence[Mapping[str, Any]]) -> Rows:
        """Rows numbered from 1."""
        return cls(
            source, records, [SourceLocation(source, number + 1) for number in range(len(records))]
        )

    @classmethod
    def joined(cls, source: str, parts: Sequence[Rows]) -> Rows:
        """The rows of several files, one after another."""
        return cls(
            source,
            [record for part in parts for record in part.records],
            [place for part in parts for place in part.places],
            tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )
