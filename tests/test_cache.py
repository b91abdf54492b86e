"""What is kept between sweeps."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpo_bench.cache import (
    DAY,
    Entry,
    damage,
    entries,
    kept,
    prune,
    release_all,
    remove_old_leftovers,
)
from dpo_bench.errors import StorageError
from dpo_bench.storage import cache_root, write_record


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))


def make(text: str = "one", name: str = "ab12") -> Path:
    return kept("pairs", name, lambda folder: (folder / "text").write_text(text)).folder


def test_an_entry_is_made_once_and_made_anew_when_it_is_not_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = make()
    assert make("two") == folder
    assert (folder / "text").read_text() == "one"
    assert caplog.messages == []
    (folder / "text").write_text("onf")
    make("two")
    assert (folder / "text").read_text() == "two"
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:-9])
    make("three")
    assert (folder / "text").read_text() == "three"
    (folder / "manifest.json").unlink()
    make("four")
    assert (folder / "text").read_text() == "four"
    assert caplog.messages == [
        "pairs/ab12 in the cache is damaged (text): made anew",
        "pairs/ab12 in the cache is damaged (manifest.json): made anew",
        "pairs/ab12 in the cache has no manifest (an older version wrote none): made anew",
    ]
    assert all(record.passing for record in caplog.records)  # type: ignore[attr-defined]


def test_an_entry_that_was_deleted_as_a_message_may_say_is_made_anew() -> None:
    folder = make()
    (folder / "text").unlink()
    assert (make("two") / "text").read_text() == "two"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_named() -> None:
    cache_root().mkdir()
    cache_root().chmod(0o500)
    with pytest.raises(StorageError, match="DPO_BENCH_CACHE"):
        make()


def test_a_read_only_cache_gives_what_it_has() -> None:
    folder = make()
    before = folder.stat().st_mtime_ns
    assert make() == folder
    assert folder.stat().st_mtime_ns > before, "it was used"


def test_entries_of_every_form_are_listed_and_checked() -> None:
    folder = make()
    write_record(cache_root() / "judged" / "ab" / "ab34.json", {"reply": "A"})
    (cache_root() / "judged" / "ab" / "older.json").write_text('{"reply": "B"}')
    (cache_root() / "worlds" / ".left.abcdefgh").mkdir(parents=True)
    (cache_root() / "not ours").mkdir()
    found = list(entries())
    assert [(one.kind, one.path.name) for one in found] == [
        ("pairs", "ab12"), ("judged", "ab34.json"), ("judged", "older.json"),
    ]  # fmt: skip
    assert found[0].size == sum(file.stat().st_size for file in folder.iterdir())
    assert abs(found[0].used - time.time()) < 60
    assert [damage(one) for one in found] == [[], [], []]
    (folder / "text").write_text("onf")
    file = found[1].path
    file.write_text(file.read_text().replace('"A"', '"B"'))
    assert [damage(one) for one in found] == [["text"], ["ab34.json"], []]


def the_entry() -> Entry:
    (found,) = entries()
    return found


def test_what_a_running_process_uses_is_not_pruned() -> None:
    code = (
        "import sys; from dpo_bench.cache import kept\n"
        "kept('pairs', 'ab12', None); print('held', flush=True); sys.stdin.readline()\n"
    )
    folder = make()
    release_all()
    user = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None
    assert user.stdout.readline() == "held\n"
    assert not prune(the_entry())
    assert (folder / "text").read_text() == "one"
    user.communicate("\n")
    assert prune(the_entry())
    assert list(folder.parent.iterdir()) == []
    assert (make("two") / "text").read_text() == "two"


def test_a_damaged_entry_without_manifest_is_pruned() -> None:
    folder = make()
    (folder / "manifest.json").unlink()
    assert damage(the_entry()) == ["manifest.json"]
    assert prune(the_entry())
    assert not folder.exists()


def test_leftovers_go_when_they_are_old() -> None:
    make()
    young = cache_root() / "pairs" / ".cd34.abcdefgh"
    old = cache_root() / "pairs" / ".ef56.abcdefgh"
    served = cache_root() / "served-adapters" / "dpo_bench-1"
    for folder in (young, old, served):
        folder.mkdir(parents=True)
    for folder in (old, served):
        os.utime(folder, (time.time() - 2 * DAY,) * 2)
    assert remove_old_leftovers() == [old, served]
    assert young.is_dir()
