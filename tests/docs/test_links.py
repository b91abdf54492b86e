"""The documents point at files that are there, and name modules that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "runs").glob("*.md"),
    ROOT / "reports" / "README.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    for link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_the_house_names_files_that_stand_in_it() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|toml))`", text))
    assert len(names) > 30
    for name in names:
        assert (ROOT / name).is_file() or (ROOT / "dpo_bench" / name).is_file(), name


def test_functions_that_the_house_names_stand_in_their_files() -> None:
    text = " ".join((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split())
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`\s\(`([A-Za-z_.]+)`\)", text)
    assert len(named) >= 4
    for file, name in named:
        source = (ROOT / "dpo_bench" / file).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"\b(def|class) {part}\b", source), (file, name)
