"""Documentation that is written from the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpo_bench.catalogue.cards import loss_pages
from dpo_bench.catalogue.docs import GENERATED, PAGES, keys_table, refresh, refresh_pages
from dpo_bench.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- x: begin -->", "<!-- x: end -->"


def test_refresh_replaces_what_is_between_the_markers(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    assert refresh(file, "x", "new")
    assert file.read_text(encoding="utf-8") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert not refresh(file, "x", "new")


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}"])
def test_refresh_needs_both_markers(tmp_path: Path, text: str) -> None:
    file = tmp_path / "README.md"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="has no <!-- x: begin -->"):
        refresh(file, "x", "new")
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", GENERATED)
def test_every_generated_part_is_current(name: str) -> None:
    markers, content = GENERATED[name]
    text = (ROOT / name).read_text(encoding="utf-8")
    part = text.partition(f"<!-- {markers}: begin -->")[2].partition(f"<!-- {markers}: end -->")[0]
    assert part.strip() == content(), "run `python -m dpo_bench.catalogue.docs`"


def test_every_loss_has_its_current_page() -> None:
    pages = {file.name: file.read_text("utf-8") for file in (ROOT / PAGES).glob("*.md")}
    assert pages == loss_pages(), "run `python -m dpo_bench.catalogue.docs`"


def test_pages_are_written_and_stale_ones_removed(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("old", encoding="utf-8")
    assert refresh_pages(tmp_path, {"a.md": "A", "b.md": "B"}) == ["a.md", "b.md", "gone.md"]
    assert refresh_pages(tmp_path, {"a.md": "A", "b.md": "C"}) == ["b.md"]
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"a.md": "A", "b.md": "C"}


def test_the_keys_say_default_and_meaning() -> None:
    row = "| `training.lora.rank` | 16 | rank of each adapted layer's update B A |"
    assert row in keys_table()
