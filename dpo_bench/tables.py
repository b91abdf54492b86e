"""Tables on disk: Parquet with page checksums, CSV that no spreadsheet takes for code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.storage import write_atomic

if TYPE_CHECKING:
    import pandas as pd


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, each page with its checksum."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_pandas(table, preserve_index=False), sink, write_page_checksum=True
    )
    write_atomic(path, sink.getvalue())


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a table and verify its checksums.

    Raises:
        EnvironmentProblem: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, page_checksum_verification=True).to_pandas()  # type: ignore[no-any-return]
    except (OSError, pa.ArrowException) as error:
        raise EnvironmentProblem(f"{path} is missing or damaged: {error}") from error


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV; text that a spreadsheet would run as a formula gets a leading quote."""
    safe = table.copy()
    for column in safe.select_dtypes(exclude="number").columns:
        safe[column] = safe[column].map(_inert)
    write_atomic(path, safe.to_csv(index=False, lineterminator="\n"))


def _inert(value: object) -> object:
    risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if risky else value
