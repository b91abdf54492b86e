"""``python -m benchmarks.architectures [--only NAME,...] [--matrix] [--out DIR]``."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch

from benchmarks.architectures.attempts import MATRIX, attempt, every_kind, matrix, prepare, zoo
from benchmarks.architectures.checks import Outcome
from dpo_bench.resources import available_cpus

RIGHT = (
    "Right: reference log-probs within 1e-4 nats a text of plain code (one text a forward pass, "
    "no padding, no cache), 1e-5 nats a token whatever else is in the batch, a first loss of ln 2, "
    "the losses of three steps within 2e-4 of a plain loop, every sampled response the policy's "
    "own and its KL within 1e-4, an interrupted run equal bit by bit, one end token a response. "
    "The largest differences are below."
)


def main() -> None:
    """Try them and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--matrix", action="store_true", help="plain and chat, tied, LoRA")
    parser.add_argument("--out", type=Path, default=Path("reports/architectures"))
    options = parser.parse_args()
    started = time.monotonic()
    names = [name.strip() for name in options.only.split(",") if name.strip()]
    tried = matrix(names or MATRIX) if options.matrix else zoo(names or every_kind())
    outcomes = []
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(
            available_cpus(), multiprocessing.get_context("spawn"), prepare, (cache,)
        ) as pool,
    ):
        for outcome in pool.map(attempt, tried):
            outcomes.append(outcome)
            said = outcome.refused or outcome.crashed or f"{outcome.log_probs}, {outcome.sampling}"
            print(f"{outcome.name}: {outcome.verdict}: {said}", flush=True)
    minutes = (time.monotonic() - started) / 60
    write(options.out, "matrix" if options.matrix else "architectures", outcomes, minutes)


def write(folder: Path, name: str, outcomes: list[Outcome], minutes: float) -> None:
    """A CSV of all and a page for people."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([outcome.as_dict() for outcome in outcomes])
    table["notes"] = table["notes"].map(" ".join)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.2g")
    (folder / f"{name}.md").write_text(page(name, outcomes, minutes), encoding="utf-8")


def page(name: str, outcomes: list[Outcome], minutes: float) -> str:
    """The table in Markdown."""
    import transformers

    made = [one for one in outcomes if not one.refused.startswith("not made here")]
    counts = pd.Series([one.verdict for one in made]).value_counts().to_dict()
    lines = [
        f"# {'Architectures' if name == 'architectures' else 'Combinations'}",
        "",
        f"{len(made)} tiny models: "
        + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        + f". torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{minutes:.0f} minutes.",
        "",
        RIGHT,
        "",
        "| model | verdict | log-probs | sampling | text | mates | first | steps | samples | KL |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in made:
        if one.refused or one.crashed:
            said = (one.refused or one.crashed).replace("|", "\\|")
            lines.append(f"| {one.name} | {one.verdict} | {said} | | | | | | | |")
            continue
        numbers = (f"{value:.0e}" for value in (one.text, one.mates, one.first, one.steps))
        cells = (
            one.name,
            one.verdict,
            one.log_probs,
            one.sampling,
            *numbers,
            one.samples,
            f"{one.kl:.0e}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    missing = [one for one in outcomes if one.refused.startswith("not made here")]
    if missing:
        lines += ["", "Not tried, because no tiny model of them was made:", ""]
        lines += [f"- {one.name}: {one.refused}" for one in missing]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
