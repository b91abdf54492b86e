"""Preference data in a single file: JSON lines, a JSON array, Parquet or CSV, also compressed.

JSON and CSV are read here, line by line, rather than by a library: a corrupt line is then named
with its number, a text that contains a line separator stays whole, and no value is guessed to be a
number, a date or missing.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dpo_bench.data.opening import (
    DECOMPRESSORS,
    OTHER_ENCODING,
    kind_of,
    most_bytes,
    open_data,
    refuse_pointer,
    require_fitting,
)
from dpo_bench.data.rows import Rows, SourceLocation
from dpo_bench.errors import DataError, EnvironmentProblem

LONGEST_FIELD = 2**31 - 1
"""Characters in a CSV field; the csv module's own limit is 131072, which long texts exceed."""

BYTES_PER_VALUE = 64
"""Of a Parquet file's, at least: an object, and its share of the row's."""

DELIMITERS = ",;\t|"
"""What may stand between the fields of a CSV file; the header says which it is."""


def is_data_file(path: Path) -> bool:
    """Whether a file's name says that it can be read."""
    return kind_of(path) in READERS and (
        path.suffix.lower() not in DECOMPRESSORS or kind_of(path) != ".parquet"
    )


def read_file(path: Path, label: str) -> Rows:
    """Read a whole file, chosen by its ending.

    Args:
        path: the file.
        label: how messages call it.

    Raises:
        DataError: an unknown ending, an empty file, or content that is no such table.
        EnvironmentProblem: the file cannot be read.
    """
    if not is_data_file(path):
        raise DataError(
            f"{label}: cannot read files that end in {''.join(path.suffixes[-2:])!r}; give one of "
            f"{', '.join(READERS)} (the text kinds also with {', '.join(DECOMPRESSORS)})."
        )
    reader = READERS[kind_of(path)]
    try:
        rows = reader(path, label)
    except OSError as problem:
        raise EnvironmentProblem(f"cannot read {label}: {problem.strerror or problem}.") from None
    if not rows.records:
        raise DataError(f"{label} is empty: it holds no preference pairs.")
    return rows


def _read_json(path: Path, label: str) -> Rows:
    """JSON lines; or one array of objects, which no file of lines can begin with."""
    with open_data(path, label) as stream:
        start = stream.read(4096).lstrip()
    return (_read_json_array if start.startswith(b"[") else _read_json_lines)(path, label)


def _read_json_lines(path: Path, label: str) -> Rows:
    records: list[dict[str, Any]] = []
    places: list[SourceLocation] = []
    with open_data(path, label) as stream:  # binary: only a newline ends a line, not U+2028
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            place = SourceLocation(label, number, "line")
            records.append(_object(_parse_json(line, str(place)), str(place)))
            places.append(place)
    return Rows(label, records, places)


def _read_json_array(path: Path, label: str) -> Rows:
    with open_data(path, label) as stream:
        values = _parse_json(stream.read(), label)
    places = [SourceLocation(label, number + 1) for number in range(len(values))]
    return Rows(
        label,
        [_object(value, str(place)) for value, place in zip(values, places, strict=True)],
        places,
    )


def _parse_json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except json.JSONDecodeError as problem:
        line = f"line {problem.lineno}, " if problem.lineno > 1 else ""
        raise DataError(
            f"{where}: not valid JSON ({problem.msg}: {line}column {problem.colno})."
        ) from None
    except UnicodeDecodeError as problem:
        raise DataError(
            f"{where}: not UTF-8 (byte {problem.start + 1}); {OTHER_ENCODING}."
        ) from None
    except (ValueError, RecursionError) as problem:  # a number or a nesting beyond all measure
        raise DataError(f"{where}: not usable JSON ({problem}).") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: expected an object such as "
            '{"prompt": ..., "chosen": ..., "rejected": ...}, '
            f"found {_kind(value)}."
        )
    return value


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _read_parquet(path: Path, label: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_pointer(path, label)
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        require_fitting(_bytes_of(file.metadata), most_bytes(), label)
        table = file.read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:
            raise  # the machine's fault; Arrow reports a wrong checksum as an OSError without errno
        raise DataError(f"{label}: not a readable Parquet file ({_first_line(problem)}).") from None
    try:
        names, rows = table.column_names, table.to_pylist()
    except ValueError as problem:  # text that is no UTF-8, which Parquet does not look at
        raise DataError(f"{label}: a value cannot be read ({_first_line(problem)}).") from None
    if len(set(names)) < len(names):
        raise DataError(f"{label}: two columns have the same name.")
    return Rows.numbered(label, rows)


def _bytes_of(metadata: Any) -> int:
    """About what a Parquet file's values take: repeated ones hardly any room in the file itself."""
    groups = (metadata.row_group(at) for at in range(metadata.num_row_groups))
    return sum(
        max(group.total_byte_size, group.num_rows * group.num_columns * BYTES_PER_VALUE)
        for group in groups
    )


def _read_csv(path: Path, label: str) -> Rows:
    records: list[dict[str, Any]] = []
    with open_data(path, label) as binary, _long_fields():
        start = binary.peek()
        stream = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        reader = csv.reader(stream, strict=True, delimiter=_delimiter(start))
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise DataError(f"{label}: two columns have the same name.")
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise DataError(
                        f"{label}, row {len(records) + 1} (line {reader.line_num}): "
                        f"{len(fields)} fields, but the header has {len(header)}."
                    )
                records.append(dict(zip(header, fields, strict=True)))
        except csv.Error as problem:
            raise DataError(
                f"{label}, row {len(records) + 1} (line {reader.line_num}): not valid CSV "
                f"({problem})."
            ) from None
        except UnicodeDecodeError:
            line = _undecodable_line(path, label)
            raise DataError(f"{label}, line {line}: not UTF-8; {OTHER_ENCODING}.") from None
    return Rows.numbered(label, records)


def _delimiter(start: bytes) -> str:
    """The mark that stands most often in the header; spreadsheets of many countries write ``;``."""
    header = start.splitlines()[0] if start else b""
    return max(DELIMITERS, key=lambda mark: header.count(mark.encode()))


def _undecodable_line(path: Path, label: str) -> int:
    """Number of the first line that is not UTF-8; the decoder itself works ahead in blocks."""
    with open_data(path, label) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}
"""How a file is read, by the end of its name."""
