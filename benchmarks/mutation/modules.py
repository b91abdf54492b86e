"""Which modules are changed, and which tests are asked about each."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "losses": ["tests/losses", "tests/catalogue/test_docs.py"],
    "dpo_bench/training": ["tests/training"],
    "dpo_bench/analysis": ["tests/analysis"],
    "dpo_bench/sweep": ["tests/sweep"],
}
"""Each package and the tests that mirror or read it, within a process and in seconds."""


def all_modules() -> list[str]:
    """Every module of the packages, as a path from the root of the repository."""
    return [
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        if file.name != "__init__.py"
    ]


def matching(names: list[str]) -> list[str]:
    """The modules whose path holds any of the names; all of them without names.

    Raises:
        SystemExit: no module has such a name.
    """
    found = [
        module for module in all_modules() if not names or any(name in module for name in names)
    ]
    if not found:
        raise SystemExit(f"no module of {', '.join(PACKAGES)} is named {' or '.join(names)}")
    return found


def package_of(module: str) -> str:
    """The one of `PACKAGES` that a module belongs to."""
    return next(package for package in PACKAGES if module.startswith(f"{package}/"))


def files_with_tests(package: str, root: Path) -> list[str]:
    """The files with a package's tests below the root of a repository."""
    files: list[str] = []
    for name in PACKAGES[package]:
        path = root / name
        found = [path] if path.is_file() else sorted(path.rglob("test_*.py"))
        files += [str(file.relative_to(root)) for file in found]
    return files


def imported_as(module: str) -> str:
    """A module's name in Python: ``losses/dpo.py`` is ``dpo_bench.losses.dpo``."""
    dotted = module.removesuffix(".py").replace("/", ".")
    return dotted if dotted.startswith("dpo_bench.") else f"dpo_bench.{dotted}"
