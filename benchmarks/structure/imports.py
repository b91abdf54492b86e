"""Which module imports which, read from the source without importing anything."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components

LAYERS = (
    ("errors", "launcher", "version", "progress", "processor", "threads", "wording", "plugins",
     "storage", "disk", "ledger", "cache", "notes", "vader", "search_path", "addresses",
     "resources", "deadline", "terminal"),
    ("contract",),
    ("testing",),
    ("experiment",),
    ("data", "worlds"),
    ("model",),
    ("analysis",),
    ("training", "rewards"),
    ("evaluation",),
    ("search",),
    ("sweep", "report", "catalogue"),
    ("reproduce",),
    ("api",),
    ("cache_commands",),
    ("cli", ""),
    ("__main__",),
)  # fmt: skip
"""Rooms from the bottom to the top: a module imports from its own layer's room and from below."""
ANALYSIS_MAY_IMPORT = {"analysis", "errors", "storage", "ledger", "notes", "wording"}
"""The analysis stands beside the program and knows none of it."""

Imports = Mapping[str, set[str]]


def read_modules(root: Path) -> dict[str, Path]:
    """Module -> file, of ``dpo_bench/`` and ``losses/`` below a checkout's root."""
    found = {}
    for folder in ("dpo_bench", "losses"):
        for file in sorted((root / folder).rglob("*.py")):
            name = ".".join(file.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = file
    return found


def read_imports(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module -> the modules of the program that it imports, wherever in its text.

    What is imported for annotations alone counts too, in the package's own ``__init__`` excepted:
    there it only tells type checkers what is loaded at_once.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for name, file in modules.items():
        tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree):
            known = {_module_of(target, modules) for target in _targets(node)}
            found[name] |= known - {"", name}
    at_once = {"dpo_bench.plugins", "dpo_bench.search_path", "dpo_bench.version"}
    found["dpo_bench"] = at_once & set(modules)
    return dict(found)


def _module_of(target: str, modules: Mapping[str, Path]) -> str:
    """The module that an imported name stands in; empty for one of another package."""
    while target and target not in modules:
        target = target.rpartition(".")[0]
    return target


def _targets(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def circles(imports: Imports) -> list[tuple[str, ...]]:
    """The sets of modules that import each other in a circle (strongly connected components)."""
    names = sorted(set(imports).union(*imports.values()))
    place = {name: index for index, name in enumerate(names)}
    links = np.zeros((len(names), len(names)), dtype=bool)
    for name, targets in imports.items():
        links[place[name], [place[target] for target in targets]] = True
    _, labels = connected_components(links, connection="strong")
    members: dict[int, list[str]] = defaultdict(list)
    for name, label in zip(names, labels, strict=True):
        members[int(label)].append(name)
    return sorted(tuple(one) for one in members.values() if len(one) > 1)


def room(module: str) -> str:
    """The room that a module belongs to: a package, or a module that stands alone."""
    if module.split(".", maxsplit=1)[0] == "losses":
        return "losses"
    return module.split(".")[1] if "." in module else ""


def arrows_up(imports: Imports) -> list[tuple[str, str]]:
    """Imports from a layer above, or of another room of the same layer; or by the analysis."""
    layer = {name: place for place, names in enumerate(LAYERS) for name in names}
    found = []
    for name, targets in sorted(imports.items()):
        for target in sorted(targets):
            ours, theirs = room(name), room(target)
            if ours == "losses" or theirs == "losses":
                if ours != theirs and theirs not in {"contract", "losses"}:
                    found.append((name, target))
                continue
            above = layer.get(theirs, -1) > layer.get(ours, len(LAYERS))
            beside = (
                layer.get(theirs) == layer.get(ours) and ours != theirs and layer.get(ours, 0) > 0
            )
            outside = ours == "analysis" and theirs not in ANALYSIS_MAY_IMPORT
            if above or beside or outside:
                found.append((name, target))
    return found
