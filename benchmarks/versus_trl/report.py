"""The side-by-side as a page of Markdown and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.versus_trl.machine import processor
from dpo_bench.storage import write_atomic, write_json

TARGETS = {"a": (6.0, 4.0), "b": (3.5, 2.0), "c": (4.5, 2.5)}
"""How many times faster than TRL as it comes and at its best the sweep is meant to be."""
PACKAGES = ("torch", "transformers", "trl", "datasets", "numpy")
MEBI = 2**20
COMMAND = "python -m benchmarks.versus_trl.__main__"


def write_report(folder: Path, found: Mapping[str, Sequence[dict[str, Any]]], cores: int) -> None:
    """Write ``speed.json`` and ``README.md``.

    Args:
        folder: where to.
        found: ``comparisons``, ``ladders``, ``fusions`` and ``growth``, as far as measured.
        cores: that were used.
    """
    versions = {name: version(name) for name in PACKAGES}
    machine = {
        "command": COMMAND,
        "cpu": processor(),
        "cores": cores,
        "python": platform.python_version(),
        "versions": versions,
    }
    write_json(folder / "speed.json", {"machine": machine, **found})
    used = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [
        "# Speed: this project and TRL, side by side",
        "",
        f"`{COMMAND}` on {machine['cpu']}, {cores} cores, Python {machine['python']}, {used}.",
        "Nothing here was measured on a GPU.",
        "",
        (
            "The same model, pairs, order, losses, betas, steps and optimizer settings in fp32. "
            "The contenders take turns. Time includes loading the model and the reference's "
            "log-probs; imports are left out, and TRL is spared its tokenizing. TRL runs its "
            f"trials in a loop in one process of {cores} threads; this project in {cores} "
            "processes of one thread, as `sweep` does, and, to compare, in one process too. The "
            "final loss is the mean over the last quarter of the steps, averaged over the trials: "
            "where it is equal, the work was."
        ),
        "",
    ]
    for comparison in found.get("comparisons", ()):
        lines += [*_comparison(comparison), ""]
    sections = {
        "The ladder": _ladders(found.get("ladders", ())),
        "Left out: several trials as one": _fusions(found.get("fusions", ())),
        "How cost grows": _growth(found.get("growth", ())),
    }
    for title, section in sections.items():
        lines += [f"## {title}", "", *section, ""]
    write_atomic(folder / "README.md", ("\n".join(lines).rstrip() + "\n").encode())


def speedups(comparison: dict[str, Any]) -> list[float]:
    """Total time of TRL as it comes and at its best over that of this project's sweep."""
    ours, _, *peers = (one["seconds_total"] for one in comparison["contenders"])
    return [peer / ours for peer in peers]


def memory_shares(comparison: dict[str, Any]) -> list[list[float]]:
    """Peak memory beyond the imports of this project's sweep, and of it in one process.

    Each as a share of TRL's as it comes and of TRL's at its best.
    """
    sweep, alone, *peers = (one["peak_bytes_over_imports"] for one in comparison["contenders"])
    return [[ours / peer for peer in peers] for ours in (sweep, alone)]


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
    (sweep, sweep_best), (alone, alone_best) = memory_shares(comparison)
    memory = (
        f"Peak memory beyond the imports: {alone:.2f} of TRL's as it comes and {alone_best:.2f} of "
        f"TRL's at its best for one process of this project, {sweep:.2f} and {sweep_best:.2f} for "
        "all of its sweep's."
    )
    others = comparison["share_of_bystanders"]
    told = "unknown" if others is None else f"{others:.0%}"
    note = f"Others' share of the processors meanwhile: {told}."
    return [*lines, "", f"{verdict}. {memory} {note}"]


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


def _fusions(fusions: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        (
            "A step of several trials of one data order, one trial after another as the trainer "
            "makes it, and at once with their weights stacked (`torch.func`, `vmap`), on one "
            "thread; the best of a few rounds in turn. Equal to 1e-5, tested. It is built in "
            "where it brings 1.3 x."
        ),
        "",
        "| | trials | in turn, ms | at once, ms | gain |",
        "|---|---|---|---|---|",
    ]
    for fusion in fusions:
        name = f"({fusion['workload']}) {fusion['title']}"
        lines += [
            f"| {name} | {row['variants']} | {row['in_turn']:.0f} | {row['at_once']:.0f} "
            f"| {row['in_turn'] / row['at_once']:.2f} x |"
            for row in fusion["rows"]
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


def load(folder: Path) -> dict[str, Any]:
    """What `write_report` wrote as JSON."""
    found: dict[str, Any] = json.loads((folder / "speed.json").read_text())
    return found
