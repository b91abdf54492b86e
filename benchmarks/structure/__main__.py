"""The structure in figures: ``python -m benchmarks.structure [--at REVISION]``.

With a git revision the same is counted of the program as it was there.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.structure.imports import arrows_up, circles, read_imports, read_modules

ROOT = Path(__file__).parents[2]
_EXPERIMENT = re.compile(r"\b(experiment|training|evaluation|lora|world)(\)|\])?\.get\(")
"""the experiment read back as a plain mapping"""


def figures(root: Path) -> dict[str, int]:
    """What is counted, by name."""
    modules = read_modules(root)
    texts = {name: file.read_text(encoding="utf-8") for name, file in modules.items()}
    program = {name: text for name, text in texts.items() if name.startswith("dpo_bench")}
    imports = read_imports(modules)
    once, private = _private_helpers(program)
    report = {
        name: text
        for name, text in program.items()
        if name.startswith(("dpo_bench.report", "dpo_bench.analysis"))
    }
    return {
        "modules under dpo_bench/": len(program),
        "lines under dpo_bench/": sum(text.count("\n") for text in program.values()),
        "longest module, lines": max(text.count("\n") for text in program.values()),
        "import circles": len(circles(imports)),
        "arrows that run up": len(arrows_up(imports)),
        "classes for a number with an interval": len(_interval_classes(program)),
        "`.get(` on the experiment in report and analysis": sum(
            len(_EXPERIMENT.findall(text)) for text in report.values()
        ),
        "lists that classify configuration keys": len(_key_lists(program)),
        "private helpers": private,
        "private helpers used once": once,
        "class names with two meanings": len(_repeated_classes(program)),
        "file names that occur three times or more": len(_repeated_files(program)),
    }


def _private_helpers(texts: Mapping[str, str]) -> tuple[int, int]:
    """Private functions of modules: how many are used at one place only, and how many there are."""
    once = total = 0
    for text in texts.values():
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("_"):
                total += 1
                once += len(re.findall(rf"\b{node.name}\b", text)) <= 2
    return once, total


def _classes(texts: Mapping[str, str]) -> Iterator[tuple[str, ast.ClassDef]]:
    for name, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                yield name, node


def _interval_classes(texts: Mapping[str, str]) -> list[str]:
    """Classes with a value, or a reward, between a low and a high end."""
    found = []
    for name, node in _classes(texts):
        fields = {
            one.target.id
            for one in node.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        }
        if {"low", "high"} <= fields and fields & {"value", "reward", "estimate"}:
            found.append(f"{name}.{node.name}")
    return found


def _repeated_classes(texts: Mapping[str, str]) -> list[str]:
    names = Counter(node.name for _, node in _classes(texts) if not node.name.startswith("_"))
    return [name for name, count in names.items() if count > 1]


def _repeated_files(texts: Mapping[str, str]) -> list[str]:
    names = Counter(name.rpartition(".")[2] for name in texts)
    return [name for name, count in names.items() if count > 2 and name != "__main__"]


def _key_lists(texts: Mapping[str, str]) -> list[str]:
    """Module constants that list names of keys of an experiment file."""
    keys = set(
        re.findall(r"^    (\w+): ", texts.get("dpo_bench.experiment.config", ""), re.MULTILINE)
    )
    found = []
    for name, text in texts.items():
        if name == "dpo_bench.experiment.config":
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                strings = {
                    one.value
                    for one in ast.walk(node.value)
                    if isinstance(one, ast.Constant) and isinstance(one.value, str)
                }
                named = {one.rpartition(".")[2] for one in strings} & keys
                if len(named) >= 3 and len(named) >= 0.6 * len(strings):
                    found.append(f"{name}.{node.targets[0].id}")
    return found


def _at(revision: str, folder: Path) -> Path:
    """The source of a revision, unpacked."""
    archive = folder / "source.tar"
    command = ["git", "-C", str(ROOT), "archive", "-o", str(archive), revision]
    subprocess.run([*command, "dpo_bench", "losses"], check=True)
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder


def main() -> None:
    """Print the table, with the figures of another revision beside today's on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", metavar="REVISION", help="also count this git revision")
    options = parser.parse_args()
    columns = {"now": figures(ROOT)}
    if options.at:
        with tempfile.TemporaryDirectory() as folder:
            columns = {options.at: figures(_at(options.at, Path(folder))), **columns}
    print(f"| counted | {' | '.join(columns)} |")
    print(f"|---|{'---:|' * len(columns)}")
    for name in columns["now"]:
        print(f"| {name} | {' | '.join(f'{one[name]:,}' for one in columns.values())} |")


if __name__ == "__main__":
    main()
