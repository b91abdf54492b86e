"""The side-by-side as a page of Markdown and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpo_bench.storage import write_atomic, write_json

TARGETS = {"a": (6.0, 4.0), "b": (3.5, 2.0), "c": (4.5, 2.5)}
"""How many times faster than TRL as it comes and at its best the sweep is meant to be."""
PACKAGES = ("torch", "transformers", "trl", "datasets", "numpy")
MEBI = 2**20
COMMAND = "python -m tests.benchmarks.versus_trl"


def write_report(
    folder: Path,
    comparisons: Sequence[dict[str, Any]],
    ladders: Sequence[dict[str, Any]],
    growth: Sequence[dict[str, Any]],
    cores: int,
) -> None:
    """Write ``speed.json`` and ``README.md``."""
    versions = {name: version(name) for name in PACKAGES}
    machine = {
        "command": COMMAND,
        "cpu": _cpu(),
        "cores": cores,
        "python": platform.python_version(),
        "versions": versions,
    }
    everything = {
        "machine": machine,
        "comparisons": list(comparisons),
        "ladders": list(ladders),
        "growth": list(growth),
    }
    write_json(folder / "speed.json", everything)
    used = ", ".join(f"{name} {found}" for name, found in versions.items())
    lines = [
        "# Speed: this project and TRL, side by side",
        "",
        f"`{COMMAND}` on {machine['cpu']}, {cores} cores, Python {machine['python']}, {used}.",
        "Nothing here was measured on a GPU.",
        "",
        (
            "The same model, pairs, order, losses, betas, steps and optimiser settings in fp32. "
            "The "
            "contenders take turns. Time includes loading the model and the reference's log-probs; "
            "imports are left out, and TRL is spared its tokenising. TRL runs in a loop in one "
            "process "
            f"of {cores} threads; this project in {cores} processes of one thread, as `sweep` "
            "does. "
            "The final loss is the mean over the last quarter of the steps, averaged over the "
            "trials: "
            "where it is equal, the work was."
        ),
        "",
    ]
    for comparison in comparisons:
        lines += [*_comparison(comparison), ""]
    lines += [
        "## The ladder",
        "",
        *_ladders(ladders),
        "",
        "## How cost grows",
        "",
        *_growth(growth),
    ]
    write_atomic(folder / "README.md", ("\n".join(lines).rstrip() + "\n").encode())


def speedups(comparison: dict[str, Any]) -> list[float]:
    """Total time of each further contender over that of the first."""
    ours, *peers = (one["seconds_total"] for one in comparison["contenders"])
    return [peer / ours for peer in peers]


def _comparison(comparison: dict[str, Any]) -> list[str]:
    lines = [
        f"## ({comparison['workload']}) {comparison['title']}",
        "",
        (
            f"{len(comparison['trials'])} trials ({', '.join(comparison['trials'])}) of "
            f"{comparison['steps']} steps of {comparison['pairs_per_step']} pairs, "
            f"{comparison['tokens_per_pair']:.0f} tokens a pair (prompt counted once)."
        ),
        "",
        (
            "| | total s | preparation s | s per trial | tokens/s | peak MiB (over imports) "
            "| of one process | final loss |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in comparison["contenders"]:
        loss = sum(one["final_losses"]) / len(one["final_losses"])
        lines.append(
            f"| {one['contender']}, {one['processes']} processes | {one['seconds_total']:.1f} "
            f"| {one['seconds_preparing']:.1f} | {one['seconds_per_trial']:.2f} "
            f"| {one['tokens_per_second']:,.0f} | {one['peak_bytes'] / MEBI:,.0f} "
            f"({one['peak_bytes_over_imports'] / MEBI:,.0f}) "
            f"| {one['peak_bytes_of_a_process'] / MEBI:,.0f} "
            f"({one['peak_bytes_of_a_process_over_imports'] / MEBI:,.0f}) | {loss:.5f} |"
        )
    default, best = speedups(comparison)
    verdict = f"**{default:.2f} x** faster than TRL as it comes, **{best:.2f} x** than at its best"
    if comparison["workload"] in TARGETS:
        wanted = TARGETS[comparison["workload"]]
        met = [found >= aim for found, aim in zip((default, best), wanted, strict=True)]
        words = ["met" if one else "missed" for one in met]
        verdict += f" (aims: {wanted[0]:g} x {words[0]}, {wanted[1]:g} x {words[1]})"
    return [*lines, "", verdict + "."]


def _ladders(ladders: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        (
            "Forward and backward of one step's pairs on one thread, the best of three; each line "
            "adds "
            "one technique to those above it."
        ),
        "",
    ]
    for ladder in ladders:
        lines += [f"| ({ladder['workload']}) {ladder['title']} | ms | gain |", "|---|---|---|"]
        before = None
        for rung in ladder["rungs"]:
            if "gain" in rung:
                lines.append(f"| {rung['rung']} | | {rung['gain']:.2f} x |")
                continue
            now = rung["milliseconds"]
            gain = "" if before is None else f"{before / now:.2f} x"
            lines.append(f"| {rung['rung']} | {now:.1f} | {gain} |")
            before = now
        share = ladder["floor_milliseconds"] / before if before else 0.0
        lines += [
            "",
            (
                "What limits it: its matrix products alone, without attention, would take "
                f"{ladder['floor_milliseconds']:.1f} ms at the "
                f"{ladder['matrix_product_gflops']:.0f} GFLOP/s that one thread reaches here: "
                f"{share:.0%} of the last measured time. "
                "The rest is attention, norms and activations, and calls."
            ),
            "",
        ]
    return lines


def _growth(growth: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        (
            "Cost ~ quantity^p, fitted to three sizes. Memory is what a step keeps for its "
            "backward "
            "pass (for trials: the process's peak)."
        ),
        "",
        "| quantity | sizes | p of time | p of memory |",
        "|---|---|---|---|",
    ]
    for row in growth:
        sizes = " ".join(f"{size:,.0f}" for size in row["sizes"])
        lines.append(
            f"| {row['quantity']} | {sizes} | {row['time_exponent']:.2f} "
            f"| {row['memory_exponent']:.2f} |"
        )
    return lines


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def load(folder: Path) -> dict[str, Any]:
    """What `write_report` wrote as JSON."""
    found: dict[str, Any] = json.loads((folder / "speed.json").read_text())
    return found
