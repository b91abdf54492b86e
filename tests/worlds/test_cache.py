from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpo_bench.errors import StorageError
from dpo_bench.worlds.cache import RECORD, kept_folder, read_facts, stream_seed

Fill = Callable[[Path], dict[str, Any]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def writes(text: str, calls: list[str]) -> Fill:
    def fill(folder: Path) -> dict[str, Any]:
        calls.append(text)
        (folder / "text").write_text(text)
        return {"length": len(text)}

    return fill


def test_a_part_is_made_once() -> None:
    calls: list[str] = []
    first = kept_folder("part", {"seed": 1}, writes("one", calls))
    second = kept_folder("part", {"seed": 1}, writes("two", calls))
    assert calls == ["one"]
    assert first == second
    assert (second / "text").read_text() == "one"
    assert read_facts(second) == {"length": 3}


def test_other_settings_make_another_folder() -> None:
    one = kept_folder("part", {"seed": 1}, writes("one", []))
    two = kept_folder("part", {"seed": 2}, writes("two", []))
    assert one != two
    assert [(folder / "text").read_text() for folder in (one, two)] == ["one", "two"]


def test_a_failed_build_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        (folder / "text").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_folder("part", {}, fail)
    assert list((cache / "worlds").iterdir()) == []
    assert (kept_folder("part", {}, writes("whole", [])) / "text").read_text() == "whole"


def test_the_first_of_two_builders_to_finish_is_kept(cache: Path) -> None:
    def overtaken(folder: Path) -> dict[str, Any]:
        kept_folder("part", {}, writes("quicker", []))  # as another process would
        return writes("slower", [])(folder)

    folder = kept_folder("part", {}, overtaken)
    assert (folder / "text").read_text() == "quicker"
    assert list((cache / "worlds").iterdir()) == [folder]


def test_files_can_be_read_by_others() -> None:
    def private(folder: Path) -> dict[str, Any]:
        (folder / "text").write_text("one")
        (folder / "text").chmod(0o600)
        return {}

    assert (kept_folder("part", {}, private) / "text").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("damage", ["changed", "missing", "record"])
def test_a_damaged_part_is_made_anew(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = kept_folder("part", {}, writes("one", []))
    if damage == "changed":
        (folder / "text").write_text("onf")
    elif damage == "missing":
        (folder / "text").unlink()
    else:
        (folder / RECORD).write_text("{")
    assert kept_folder("part", {}, writes("one", [])) == folder
    assert (folder / "text").read_text() == "one"
    assert read_facts(folder) == {"length": 3}
    (said,) = caplog.messages
    assert said.startswith(f"worlds/{folder.name} in the cache is damaged (")


def test_a_cache_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"cache/worlds.*DPO_BENCH_CACHE"):
        kept_folder("part", {}, writes("one", []))


def test_streams_of_random_numbers_are_told_apart() -> None:
    names: list[tuple[str | int, ...]] = [
        ("prompts", 0, 1),
        ("prompts", 0, 2),
        ("prompts", 1, 1),
        ("responses", 0, 1),
        ("prompts", 0, "1"),
    ]
    assert len({stream_seed(*name) for name in names}) == len(names)
    assert stream_seed("prompts", 0, 1) == stream_seed("prompts", 0, 1)
