"""Parts of the documentation that are written from the code: ``python -m dpo_bench.generated``.

They stand between markers, ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``, in the files of a
checkout; a test fails when they are not current.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dpo_bench.catalogue import markdown_table
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


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "README.md": ("losses", markdown_table),
    "runs/README.md": ("keys", keys_table),
}
"""File -> name of its markers, and what belongs between them."""


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


def main() -> None:
    """Refresh every generated part of this checkout."""
    root = Path(__file__).parents[1]
    for file, (name, content) in GENERATED.items():
        print(file, "refreshed" if refresh(root / file, name, content()) else "is current")


if __name__ == "__main__":
    main()
