"""Change the code in many places, ask the tests each time, and write a table of what they miss."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from benchmarks.mutation.modules import (
    ROOT,
    files_with_tests,
    imported_as,
    matching,
    package_of,
)
from benchmarks.mutation.mutants import applied, sample
from benchmarks.mutation.report import Found, load, write
from benchmarks.mutation.trial import Ended, copy_tree, forget_bytecode, run_tests

SAMPLE = 6
SEED = 0
REPORT = ROOT / "reports" / "mutation"
PATIENCE = 10.0  # seconds that a run of tests may take at least


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and write; what other modules had before stays in the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="part of a module's path")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="places of each module")
    parser.add_argument("--seed", type=int, default=SEED, help="of the sample")
    parser.add_argument("--workers", type=int, default=2, help="modules at a time")
    parser.add_argument("--again", action="store_true", help="ask about survivors alone")
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("cosmic_ray") is None:
        parser.error("cosmic-ray is missing: pip install -e '.[mutation]'")
    modules = matching(options.only)
    earlier = load(options.out)
    found = [one for one in earlier if one.module not in modules] if options.only else []
    known = {one for one in earlier if one.outcome != "survived"} if options.again else set()
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.workers):
            copies.put(copy_tree(Path(folder, str(number))))
        first = copies.get()
        unchanged = _unchanged(first, {package_of(module) for module in modules})
        copies.put(first)

        def work(module: str) -> list[Found]:
            copy = copies.get()
            try:
                files = _order(module, unchanged[package_of(module)])
                return list(_try(module, copy, files, options.sample, options.seed, known))
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(options.workers) as pool:
            for new in pool.map(work, modules):
                found += new
                write(options.out, found, options.sample, options.seed)
    return 0


def _unchanged(copy: Path, packages: Iterable[str]) -> dict[str, dict[str, Ended]]:
    """How each package's files of tests end while nothing is changed.

    Raises:
        SystemExit: one of them fails.
    """
    unchanged: dict[str, dict[str, Ended]] = {}
    for package in sorted(packages):
        unchanged[package] = {}
        for file in files_with_tests(package, copy):
            ended = run_tests(copy, [file], timeout=600, keep_bytecode=True)
            if ended.outcome != "survived":
                raise SystemExit(f"{file} fails, or takes too long, without any change")
            unchanged[package][file] = ended
    return unchanged


def _order(module: str, room: dict[str, Ended]) -> dict[str, float]:
    """The tests that import a module, with their seconds: its own file first, then the quick."""
    own = f"test_{Path(module).name}"
    files = {
        file: ended.seconds for file, ended in room.items() if imported_as(module) in ended.imported
    }
    return dict(sorted(files.items(), key=lambda item: (Path(item[0]).name != own, item[1])))


def _try(
    module: str, copy: Path, files: dict[str, float], size: int, seed: int, known: set[Found]
) -> Iterator[Found]:
    """Each mutant of a module and what the tests said of it."""
    start = time.monotonic()
    tests, patience = [module, *files], PATIENCE + 3 * sum(files.values())
    outcomes = []
    for mutant in sample(module, copy / module, size, seed):
        with applied(mutant, copy) as (before, after):
            one = Found(module, mutant.line, mutant.operator, "killed", before, after)
            if one not in known:
                forget_bytecode(copy, module)
                one = replace(one, outcome=run_tests(copy, tests, patience).outcome)
        outcomes.append(one.outcome)
        yield one
    survived = outcomes.count("survived")
    seconds = time.monotonic() - start
    print(f"{module}: {survived} of {len(outcomes)} survived, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
