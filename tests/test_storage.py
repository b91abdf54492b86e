"""Durable files."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpo_bench.errors import DamagedError
from dpo_bench.storage import (
    MANIFEST,
    cache_root,
    canonical_json,
    digest,
    file_digest,
    is_published,
    open_sealed,
    published_folder,
    read_record,
    remove_leftovers,
    write_atomic,
    write_json,
    write_record,
)


def test_equal_values_have_one_spelling() -> None:
    assert canonical_json({"b": 1, "a": [1.5, "ü"]}) == '{"a":[1.5,"ü"],"b":1}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_nan_is_refused_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    write_atomic(file, "old")
    with pytest.raises(TypeError):
        write_atomic(file, 3)  # type: ignore[arg-type]
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "folder"
    with pytest.raises(ZeroDivisionError), published_folder(final) as folder:
        (folder / "a").write_text(str(1 / 0))
    assert list(final.parent.iterdir()) == []
    with published_folder(final) as folder:
        (folder / "a").write_text("2")
        assert not final.exists()
    assert (final / "a").read_text() == "2"


def test_the_first_of_two_writers_stays(tmp_path: Path) -> None:
    final = tmp_path / "folder"
    with published_folder(final) as slow:
        (slow / "a").write_text("slow")
        with published_folder(final) as quick:
            (quick / "a").write_text("quick")
    assert (final / "a").read_text() == "quick"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_atomic(file, b"0" * 1000)
    code = (
        "import sys; from pathlib import Path; from dpo_bench.storage import write_atomic\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1; write_atomic(Path(sys.argv[1]), str(n % 10).encode() * 1000)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(file)])
    time.sleep(1.0)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    content = file.read_bytes()
    assert len(content) == 1000
    assert len(set(content)) == 1


def test_a_record_that_was_changed_is_noticed_at_every_bit(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    write_record(file, {"beta": 0.1, "names": {2: "two", 10: "ten"}, "text": "ü"})
    value = {"beta": 0.1, "names": {"2": "two", "10": "ten"}, "text": "ü"}
    assert read_record(file) == value
    whole = file.read_bytes()
    for at in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
        file.write_bytes(changed)
        try:
            found = read_record(file)
        except DamagedError:
            continue
        assert found == value, "another spelling of the same, such as e for E in a number"
    for length in range(len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"r\.json is missing or damaged"):
            read_record(file)


def test_a_record_of_an_older_version_is_known_by_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    file.write_text('{"trials": [], "end": ""}')
    assert read_record(file) == {"trials": [], "end": ""}
    file.write_text('{"trials": [], "digesu": "0123"}')
    with pytest.raises(DamagedError):
        read_record(file)
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "none.json")


def published(folder: Path, **files: str) -> Path:
    with published_folder(folder) as new:
        for name, text in files.items():
            (new / name).write_text(text)
    return folder


def test_a_published_folder_knows_its_files(tmp_path: Path) -> None:
    folder = published(tmp_path / "f", a="one", b='{"x": 1}')
    found = open_sealed(folder)
    sha = hashlib.sha256(b"one").hexdigest()
    assert found.artefacts == {"a": sha, "b": hashlib.sha256(b'{"x": 1}').hexdigest()}
    assert (found.read("a"), found.read_json("b"), found.damaged()) == (b"one", {"x": 1}, [])
    assert is_published(folder)
    (folder / "a").write_text("onf")
    assert open_sealed(folder).damaged() == ["a"]
    with pytest.raises(DamagedError, match="run the sweep again"):
        open_sealed(folder).read("a")
    (folder / "a").unlink()
    assert open_sealed(folder).damaged() == ["a"]
    (tmp_path / "elsewhere").write_text("one")
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    assert open_sealed(folder).damaged() == ["a"], "a link is no file of the folder"
    (folder / MANIFEST).write_text("{}")
    assert not is_published(folder)


def test_what_is_damaged_is_replaced_and_what_is_whole_stays(tmp_path: Path) -> None:
    folder = published(tmp_path / "f", a="first")
    published(folder, a="second")
    assert (folder / "a").read_text() == "first"
    (folder / "a").write_text("fjrst")
    published(folder, a="third")
    assert (folder / "a").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    (tmp_path / "file").write_text("in the way")
    published(tmp_path / "file", a="fourth")
    assert (tmp_path / "file" / "a").read_text() == "fourth"


def test_a_disk_that_takes_no_more_is_told_in_a_line_with_the_file(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from dpo_bench.errors import StorageError\n"
        "from dpo_bench.storage import published_folder, write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "folder = Path(sys.argv[1])\n"
        "try:\n"
        "    write_atomic(folder / 'x', bytes(999))\n"
        "except StorageError as error:\n"
        "    print(error)\n"
        "try:\n"
        "    with published_folder(folder / 'y') as new:\n"
        "        with (new / 'z').open('wb', buffering=0) as stream:\n"
        "            stream.write(bytes(100)); stream.write(bytes(1))\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "DPO_BENCH_CACHE": str(tmp_path / "cache")}
    for where, remedy in (("runs", "give another --out"), ("cache", "DPO_BENCH_CACHE")):
        run = [sys.executable, "-c", code, str(tmp_path / where)]
        done = subprocess.run(run, capture_output=True, text=True, check=True, env=environment)
        first, second = done.stdout.splitlines()
        assert first.startswith(f"{tmp_path / where / 'x'}: File too large; ")
        assert second.startswith(f"{tmp_path / where / 'y'}: File too large; ")
        assert remedy in first
        assert remedy in second
        assert list((tmp_path / where).iterdir()) == []


def test_only_what_nobody_writes_is_removed(tmp_path: Path) -> None:
    left = [".a.abcdefgh", ".deep.name.0_1_2_3_"]
    for name in (*left, ".lock", ".a.abcdefghi", "a.abcdefgh", ".abcdefgh"):
        (tmp_path / name).write_text("half")
    with published_folder(tmp_path / "b") as new:
        assert remove_leftovers(tmp_path, ["b"]) == []
        assert remove_leftovers(tmp_path, ["c"]) == []
        assert remove_leftovers(tmp_path, older_than=60.0) == []
        assert [path.name for path in remove_leftovers(tmp_path)] == left
        assert new.is_dir()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", ".a.abcdefghi", "a.abcdefgh", ".abcdefgh", "b"}


def test_file_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    (tmp_path / "c").write_bytes(b"y")
    first, second, third = (file_digest(tmp_path / name) for name in "abc")
    assert first == second != third


def test_cache_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", "~/somewhere")
    assert cache_root() == Path.home() / "somewhere"
    monkeypatch.delenv("DPO_BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_root() == Path("/x/dpo_bench")
