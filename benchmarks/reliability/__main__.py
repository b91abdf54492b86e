"""``python -m benchmarks.reliability [PART,...] [--minutes N] [--out DIR]``.

Each part writes what it found as JSON, and the page is written from the JSONs that are there.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from benchmarks.reliability.faults import can_fail, start_again_with_faults
from benchmarks.reliability.lab import preload
from benchmarks.reliability.page import PARTS, write_page


def main() -> None:
    """Run the parts one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=str([*PARTS]))
    parser.add_argument("--minutes", type=float, default=30.0, help="of each part, at most")
    parser.add_argument("--count", type=int, help="of what a part tries; default: its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("reports/reliability"))
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    modules = {name: import_module(f"benchmarks.reliability.{name}") for name in options.parts}
    if any(module.NEEDS_FAULTS for module in modules.values()):
        if not can_fail():
            parser.error("disk and kill need Linux and a C compiler (cc)")
        start_again_with_faults()
    preload()
    more = {} if options.count is None else {"count": options.count}
    for name, module in modules.items():
        root = Path(tempfile.mkdtemp(prefix=f"reliability-{name}-"))
        try:
            found = module.run(root, 60 * options.minutes, seed=options.seed, **more)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        command = f"python -m benchmarks.reliability {name} --minutes {options.minutes:g}"
        if options.count is not None:
            command += f" --count {options.count}"
        record = {"part": name, "command": command, "machine": machine(), **found}
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (options.out / f"{name}.json").write_text(text, encoding="utf-8")
        print(f"{name}: {found['seconds']:.0f} s", flush=True)
    write_page(options.out)


def machine() -> str:
    """What it ran on."""
    import os

    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "pyarrow", "safetensors"))
    return (
        f"{len(os.sched_getaffinity(0))} CPU cores, {platform.system()}, Python"
        f" {platform.python_version()}, {libraries}; {time.strftime('%Y-%m-%d')}"
    )


if __name__ == "__main__":
    main()
