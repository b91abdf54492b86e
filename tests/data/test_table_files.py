from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpo_bench.data.table_files import read_file
from dpo_bench.errors import DataError, EnvironmentProblem
from tests.data.build import row, rows, write_jsonl

AWKWARD = (
    "quotes \" and '; commas, a line\nbreak,\ttab,\u2028 separators, \U0001f600 and ZWJ \u200d"
)


def read(path: Path) -> list[dict[str, object]]:
    return [dict(record) for record in read_file(path, path.name).records]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet", ".csv"])
def test_every_kind_of_file_gives_back_what_was_written(tmp_path: Path, ending: str) -> None:
    records = [row(0), row(1, prompt=AWKWARD), row(2, prompt=""), row(3, chosen="NA")]
    path = tmp_path / f"pairs{ending}"
    frame = pd.DataFrame(records)
    if ending == ".csv":
        frame.to_csv(path, index=False)
    elif ending == ".parquet":
        frame.to_parquet(path)
    else:
        write_jsonl(path, records)
    assert read(path) == records


def test_an_ending_is_recognized_in_capitals(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "PAIRS.JSONL", rows(2))
    assert read(tmp_path / "PAIRS.JSONL") == rows(2)


def test_a_json_array_is_read_like_lines(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(rows(3), indent=2))
    assert read(path) == rows(3)


def test_the_line_of_a_mistake_in_a_json_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text('[\n{"prompt": "a"},\n{"prompt": }\n]')
    with pytest.raises(DataError, match=r"pairs\.json: not valid JSON .*line 3, column"):
        read(path)


def test_byte_order_mark_windows_newlines_and_blank_lines_are_no_content(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps(record) for record in rows(2)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode() + b"\r\n")
    read_rows = read_file(path, "pairs.jsonl")
    assert list(read_rows.records) == rows(2)
    assert [str(place) for place in read_rows.places] == [
        "pairs.jsonl, line 1",
        "pairs.jsonl, line 3",
    ]


def test_a_csv_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerows([["prompt", "chosen", "rejected"], [AWKWARD, 'he said "no"', "b"]])
    assert read(path) == [{"prompt": AWKWARD, "chosen": 'he said "no"', "rejected": "b"}]


def test_a_corrupt_line_is_named_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps(record) for record in rows(4)]
    lines[2] = lines[2][:-5]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"^pairs\.jsonl, line 3: not valid JSON \(.*column \d+\)"):
        read(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'"text"', "line 1: expected an object .* found a string"),
        (b"null", "line 1: expected an object .* found null"),
        (b"3", "line 1: expected an object .* found a number"),
        (b'{"prompt": "\xff"}', "line 1: not UTF-8"),
        (b'{"a":' * 100_000, "line 1: not usable JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "line 1: not usable JSON"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(line)
    with pytest.raises(DataError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,chosen,rejected\na,b,c\na,b\n", r"row 2 \(line 3\): 2 fields, .* header has 3"),
        ("prompt,chosen,rejected\na,b,c,d\n", r"row 1 \(line 2\): 4 fields"),
        ('prompt,chosen,rejected\na,"b,c\n', r"row 1 \(line 2\): not valid CSV"),
        ("prompt,prompt,rejected\na,b,c\n", "two columns have the same name"),
    ],
)
def test_a_broken_csv_is_named_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_csv_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"prompt,chosen,rejected\n" + b"a,b,c\n" * 3000 + "é,b,c\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 3002: not UTF-8"):
        read(path)


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.json", "empty.csv", "header.csv", "a.json"])
def test_an_empty_file_says_so(tmp_path: Path, name: str) -> None:
    contents = {"header.csv": "prompt,chosen,rejected\n", "a.json": "[]"}
    (tmp_path / name).write_text(contents.get(name, ""))
    with pytest.raises(DataError, match=f"{name} is empty"):
        read(tmp_path / name)


def test_an_empty_parquet_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    pd.DataFrame({"prompt": [], "chosen": [], "rejected": []}).to_parquet(path)
    with pytest.raises(DataError, match="empty"):
        read(path)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    path.write_text("not parquet at all, but long enough to be looked at")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read(path)


def test_a_flipped_bit_in_a_parquet_file_with_checksums_is_found(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    table = pa.Table.from_pylist(rows(500))
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(b"Question 250?")] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read(path)


def test_an_unknown_ending_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("x")
    with pytest.raises(DataError, match=r"end in '\.txt'.*\.jsonl, \.json, \.parquet, \.csv"):
        read(tmp_path / "pairs.txt")


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_huge_row_is_read_whole(tmp_path: Path, ending: str) -> None:
    text = "long " * 400_000
    path = tmp_path / f"pairs{ending}"
    if ending == ".csv":
        pd.DataFrame([row(0, chosen=text)]).to_csv(path, index=False)
    else:
        write_jsonl(path, [row(0, chosen=text)])
    before = csv.field_size_limit()
    assert read(path)[0]["chosen"] == text
    assert csv.field_size_limit() == before


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read_is_the_machine_s_fault(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.symlink_to("/proc/self/mem")  # reading its first byte is an error, also for root
    with pytest.raises(EnvironmentProblem, match=r"cannot read pairs\.jsonl: Input/output error"):
        read(path)


def compressed(content: bytes, ending: str) -> bytes:
    if ending == ".zst":
        return bytes(pa.compress(content, codec="zstd", asbytes=True))
    make: dict[str, Any] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    return bytes(make[ending](content))


def as_csv(records: list[dict[str, Any]], delimiter: str = ",") -> str:
    return str(pd.DataFrame(records).to_csv(index=False, sep=delimiter))


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_text_files_may_be_compressed(tmp_path: Path, kind: str, ending: str) -> None:
    records = [row(0), row(1, prompt=AWKWARD)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    text = {".jsonl": lines, ".json": json.dumps(records), ".csv": as_csv(records)}[kind]
    path = tmp_path / f"pairs{kind}{ending}"
    path.write_bytes(compressed(b"\xef\xbb\xbf" + text.encode(), ending))
    assert read(path) == records


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_damaged_compressed_file_is_data_s_fault_and_a_line_in_it_has_its_number(
    tmp_path: Path, ending: str
) -> None:
    whole = "".join(json.dumps(record) + "\n" for record in rows(2000)).encode()
    path = tmp_path / f"pairs.jsonl{ending}"
    path.write_bytes(compressed(whole, ending)[:-20])
    with pytest.raises(DataError, match=rf"pairs\.jsonl\{ending}: not a readable \{ending} file"):
        read(path)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=rf"not a readable \{ending} file"):
        read(path)
    path.write_bytes(compressed(whole[:-5], ending))
    with pytest.raises(DataError, match=rf"pairs\.jsonl\{ending}, line 2000: not valid JSON"):
        read(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv", "a.jsonl.gz", "a.json.zst"])
def test_a_git_lfs_pointer_is_named_as_such(tmp_path: Path, name: str) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(DataError, match=f"{name} is a git-lfs pointer.*`git lfs pull`"):
        read(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz"])
def test_utf_16_is_named_with_what_converts_it(tmp_path: Path, name: str, encoding: str) -> None:
    text = as_csv(rows(2)) if ".csv" in name else json.dumps(row(1)) + "\n"
    data = text.encode(encoding)
    (tmp_path / name).write_bytes(compressed(data, ".gz") if name.endswith(".gz") else data)
    with pytest.raises(DataError, match=f"{name} is UTF-16, not UTF-8: .*iconv -f UTF-16"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_latin_1_is_a_plain_line(tmp_path: Path, name: str) -> None:
    records = [row(0), row(1, chosen="caf\xe9")]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    text = {".csv": as_csv(records), ".json": json.dumps(records, ensure_ascii=False)}
    content = text.get(Path(name).suffix, lines)
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8.*perhaps Latin-1 or Windows-1252: save the"):
        read(tmp_path / name)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_header_of_a_csv_says_what_parts_its_fields(tmp_path: Path, delimiter: str) -> None:
    records = [row(0, prompt="a, b; c\td | e"), row(1, prompt=AWKWARD)]
    path = tmp_path / ("pairs.tsv" if delimiter == "\t" else "pairs.csv")
    path.write_text(as_csv(records, delimiter), newline="")
    assert read(path) == records


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.csv.xz", "bomb.json.bz2", "plain.jsonl"])
def test_data_that_memory_does_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A small file, and one line without an end."""
    monkeypatch.setattr("dpo_bench.data.opening.available_memory", lambda: 8 * 2**20)
    file = tmp_path / name
    opener: Any = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(file.suffix, open)
    with opener(file, "wb") as stream:
        stream.write(b'{"prompt": "' + b" " * 2**21)
    if name != "plain.jsonl":
        assert file.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"more than 0.0 GiB, uncompressed"):
        read_file(file, name)


def test_a_small_table_of_very_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpo_bench.data.opening.available_memory", lambda: 8 * 2**20)
    file = tmp_path / "bomb.parquet"
    pd.DataFrame({"prompt": ["a"] * 20_000}).to_parquet(file)
    assert file.stat().st_size < 10_000
    with pytest.raises(DataError, match="take a part of it"):
        read_file(file, "bomb.parquet")


def test_a_column_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    """Parquet keeps names as bytes, and looks at none of them."""
    file = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"prompt": ["a"]}), file, store_schema=False)
    file.write_bytes(file.read_bytes().replace(b"prompt", b"pro\x84pt"))
    with pytest.raises(DataError, match=r"odd\.parquet"):
        read_file(file, "odd.parquet")
