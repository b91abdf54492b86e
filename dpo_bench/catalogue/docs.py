"""Documentation that is written from the code: ``python -m dpo_bench.catalogue.docs``.

They stand between markers, ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``, in the files of a
checkout; a test fails when they are not current.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dpo_bench.analysis.metrics import METRICS
from dpo_bench.catalogue.cards import loss_pages, markdown_table
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.read import documented_keys
from dpo_bench.storage import write_atomic


def keys_table() -> str:
    """Every key of an experiment file as Markdown: key, default, meaning."""
    rows = [
        " | ".join(("", f"`{path}`", default, meaning.replace("|", "\\|"), "")).strip()
        for path, default, meaning in documented_keys()
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def metrics_table() -> str:
    """Every metric as Markdown: column, what it is, unit, source."""
    rows = [
        f"| `{one.name}` | {one.title} | {one.about} | {one.unit} | {one.source} |"
        for one in METRICS
    ]
    head = "| column | metric | what it is | unit | source |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "README.md": ("losses", markdown_table),
    "runs/README.md": ("keys", keys_table),
    "docs/metrics.md": ("metrics", metrics_table),
}
"""File -> name of its markers, and what belongs between them."""


PAGES = "docs/losses"
"""Folder with a page per loss, all of it written from the registry."""


def refresh(file: Path, name: str, content: str) -> bool:
    """Put content between a file's markers; True when that changed the file.

    Raises:
        ConfigurationError: the file lacks the markers.
    """
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = file.read_text(encoding="utf-8")
    head, begin, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise ConfigurationError(f"{file} has no {first} ... {last}.")
    current = f"{head}{first}\n{content}\n{last}{tail}"
    if current != text:
        write_atomic(file, current)
    return current != text


def refresh_pages(folder: Path, pages: Mapping[str, str]) -> list[str]:
    """Make a folder hold exactly these pages; returns the names of those that it changed."""
    folder.mkdir(parents=True, exist_ok=True)
    stale = [file.name for file in folder.glob("*.md") if file.name not in pages]
    for name in stale:
        (folder / name).unlink()
    changed = [
        name
        for name, text in pages.items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]
    for name in changed:
        write_atomic(folder / name, pages[name])
    return sorted(stale + changed)


def main() -> None:
    """Refresh every generated part of this checkout."""
    root = Path(__file__).parents[2]
    for file, (name, content) in GENERATED.items():
        print(file, "refreshed" if refresh(root / file, name, content()) else "is current")
    for file in refresh_pages(root / PAGES, loss_pages()):
        print(f"{PAGES}/{file} refreshed")


if __name__ == "__main__":
    main()
