"""Durable files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpo_bench.storage import (
    cache_root,
    canonical_json,
    digest,
    file_digest,
    published_folder,
    write_atomic,
    write_json,
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
