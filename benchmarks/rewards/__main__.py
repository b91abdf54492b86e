"""``python -m benchmarks.rewards [--only NAME,...] [--out DIR]``."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.architectures.models import save_model, write_pairs
from benchmarks.rewards.attempts import KINDS, attempt, prepare
from benchmarks.rewards.case import Outcome
from benchmarks.rewards.classifiers import save_all
from benchmarks.rewards.endpoint import running
from dpo_bench.resources import available_cpus

RIGHT = (
    "Each line is a sweep of a tiny model through the command line, with a judge behind a local"
    " endpoint that misbehaves in the way that is named, or with a reward model or function made on"
    " the spot. Exit code, words, requests at the endpoint, seconds and the win rate, worked out"
    " anew from the responses, are held against what is wished; a traceback is always wrong."
)


def main() -> None:
    """Try them and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("reports/rewards"))
    options = parser.parse_args()
    only = {name.strip() for name in options.only.split(",") if name.strip()}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, running() as url:
        root = Path(folder)
        save_model(root / "policy", "llama")
        write_pairs(root / "p.jsonl", chat=False)
        save_all(root / "rm")
        # One more than there are processors: some cases only wait.
        with ProcessPoolExecutor(
            available_cpus() + 1, multiprocessing.get_context("spawn"), prepare, (root, url)
        ) as pool:
            tried = [
                (kind, pool.submit(attempt, kind, case.name))
                for kind, cases in KINDS.items()
                for case in cases()
                if not only or case.name in only
            ]
            outcomes: dict[str, list[Outcome]] = {kind: [] for kind in KINDS}
            for kind, future in tried:
                outcome = future.result()
                outcomes[kind].append(outcome)
                verdict = f"WRONG: {outcome.wrong}" if outcome.wrong else "right"
                print(f"{outcome.case} ({outcome.tried}): {verdict}", flush=True)
    text = page(outcomes, (time.monotonic() - started) / 60)
    if not only:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "rewards.md").write_text(text, encoding="utf-8")


def page(outcomes: Mapping[str, Sequence[Outcome]], minutes: float) -> str:
    """The table in Markdown."""
    import openai
    import transformers

    total = [one for some in outcomes.values() for one in some]
    wrong = sum(bool(one.wrong) for one in total)
    counts = (
        f"{len(total)} situations: {len(total) - wrong} right, {wrong} wrong. torch"
        f" {torch.__version__}, transformers {transformers.__version__}, openai"
        f" {openai.__version__}; {minutes:.0f} minutes."
    )
    lines = [
        "# Judges, reward models and reward functions",
        "",
        counts,
        "",
        RIGHT,
    ]
    for kind, some in outcomes.items():
        lines += ["", f"## {kind}", "", "| | tried | wished | outcome | |", "|---|---|---|---|---|"]
        for one in some:
            verdict = f"**wrong**: {one.wrong}" if one.wrong else "right"
            cells = (one.case, one.tried, one.wished, one.outcome, verdict)
            lines.append(f"| {' | '.join(_cell(text) for text in cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
