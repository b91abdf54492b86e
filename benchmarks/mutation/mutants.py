"""The changes: cosmic-ray's, less those that say nothing, one to a place."""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Position = tuple[int, int]

_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}
_IDENTITY = {"Is", "IsNot"}


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        module: path from the root of the repository.
        operator: cosmic-ray's name of the kind of change.
        occurrence: which of the places where that kind is possible.
        line: where, from 1.
    """

    module: str
    operator: str
    occurrence: int
    line: int


def sample(module: str, file: Path, size: int, seed: int) -> list[Mutant]:
    """At most `size` changes of a module, no two at the same place, the same for the same seed."""
    import cosmic_ray.ast
    import cosmic_ray.plugins

    tree = cosmic_ray.ast.get_ast_from_path(file)
    unread = _Unread(file.read_text(encoding="utf-8"))
    places: dict[Position, list[Mutant]] = defaultdict(list)
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments() or not _tells(name):
            continue
        starts = [
            start
            for node in cosmic_ray.ast.ast_nodes(tree)
            for start, _ in kind().mutation_positions(node)
        ]
        for occurrence, start in enumerate(starts):
            if start not in unread:
                places[start].append(Mutant(module, name, occurrence, start[0]))
    draw = random.Random(f"{seed} {module}")
    chosen = draw.sample(sorted(places), min(size, len(places)))
    return [draw.choice(places[place]) for place in sorted(chosen)]


@contextmanager
def applied(mutant: Mutant, root: Path) -> Iterator[tuple[str, str]]:
    """Change the module below `root` for the block; gives what its lines were and what they are."""
    import cosmic_ray.plugins
    from cosmic_ray.mutating import use_mutation

    kind = cosmic_ray.plugins.get_operator(mutant.operator)
    with use_mutation(root / mutant.module, kind(), mutant.occurrence) as (before, after):
        yield _changed_lines(before, after)


def _tells(operator: str) -> bool:
    """Whether an operator makes changes that a test could sensibly be asked to notice.

    Shifts and bits of floats raise at once, which any test notices; `is` in place of `==` is the
    same for small numbers.
    """
    if "Replace" not in operator or "_" not in operator:
        return True
    before, after = operator.split("_")[-2:]
    if "BinaryOperator" in operator:
        return (before in _ARITHMETIC) == (after in _ARITHMETIC)
    if "ComparisonOperator" in operator:
        return (before in _IDENTITY) == (after in _IDENTITY)
    return True


class _Unread:
    """Places that do not count: unions of types, and imports for the type checker alone."""

    def __init__(self, source: str) -> None:
        self._spans: list[tuple[Position, Position]] = []
        for node in ast.walk(ast.parse(source)):
            for part in _unread_parts(node):
                start = (part.lineno, part.col_offset)
                self._spans.append((start, (part.end_lineno or 0, part.end_col_offset or 0)))

    def __contains__(self, place: Position) -> bool:
        return any(start <= place < end for start, end in self._spans)


def _unread_parts(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        yield node
    for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
        if annotation is not None:
            yield from (part for part in ast.walk(annotation) if isinstance(part, ast.BinOp))


def _changed_lines(before: str, after: str) -> tuple[str, str]:
    """What differs, without the lines around it and without indentation."""
    old, new = before.splitlines(), after.splitlines()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return " ".join(map(str.strip, old)), " ".join(map(str.strip, new))
