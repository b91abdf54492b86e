"""The page of a run, from its lines: on any machine, of a run that was cut short too."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench, Work
from benchmarks.gpu.jobs import JOBS, OURS, Job
from dpo_bench.storage import write_atomic

GEMM, COPY = "bf16 matrix product", "copy, read and written"
GIB = 1 << 30
NOT_MEASURED = (
    "The share of time that the GPU is idle during the sweep.",
    "More than one GPU; models beyond 8B; 8B with all weights trained.",
    "The bits of a run that is repeated with a deterministic backward pass of attention.",
)
NOTHING = "not measured"


@dataclass(slots=True)
class Run:
    """What the lines say.

    Attributes:
        machine: what it was measured on.
        lines: of each contender at its task, by its name.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Run:
        """Take up all whole lines; a last one that was cut is left out."""
        run = cls()
        for text in file.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if "machine" in line:
                run.machine = line["machine"]
            else:
                run.lines.setdefault(line["job"], []).append(line)
        return run

    def of(self, job: Job, key: str) -> list[dict[str, Any]]:
        """A contender's lines that have a figure."""
        return [line for line in self.lines.get(job.name, ()) if key in line]

    def status(self, job: Job) -> str:
        """What became of it in its first turn."""
        found = [line["status"] for line in self.of(job, "status") if line["turn"] == 0]
        return found[0] if found else "not run: the run was cut short"

    def ceiling(self, name: str) -> float | None:
        """A ceiling of the card."""
        lines = [line for job in JOBS for line in self.of(job, "ceiling")]
        return next((line["value"] for line in lines if line["ceiling"] == name), None)


def write_page(folder: Path, lines: str) -> None:
    """Write ``README.md`` beside a run's lines."""
    run = Run.read(folder / lines)
    write_atomic(folder / "README.md", ("\n".join(_page(run)).rstrip() + "\n").encode())


def _page(run: Run) -> Iterator[str]:
    machine = run.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    yield "# On a GPU"
    yield ""
    yield f"`python -m benchmarks.gpu` on {machine['gpu'] or machine['cpu']}, {versions}."
    if machine["dry"]:
        yield (
            "**A dry run: models of two layers on a CPU. No figure here says anything but that "
            "everything runs.**"
        )
    yield (
        f"Weights and tokens are random. A step has {machine['pairs_per_step']} pairs; figures are "
        f"the median of {machine['timed']} steps, with the range, after steps that are not counted."
    )
    sections = {
        "What the card can do": _ceilings(run),
        "What must be exact": _gates(run),
        "Training": _training(run),
        "Sampling": _decoding(run),
        "A sweep of three trials": _sweeps(run),
        "What was not measured": _unmeasured(run),
    }
    for title, section in sections.items():
        yield from ("", f"## {title}", "", *section)


def _ceilings(run: Run) -> Iterator[str]:
    yield from _table("ceiling", "measured")
    for line in (line for job in JOBS for line in run.of(job, "ceiling")):
        found = f"{NOTHING}: {line['unit']}"
        if line["value"] is not None:
            found = f"{line['value']:,.4g} {line['unit']}"
        yield _row(line["ceiling"], found)


def _gates(run: Run) -> Iterator[str]:
    yield from _table("gate", "off by", "at most", "")
    for line in (line for job in JOBS for line in run.of(job, "gate")):
        verdict = "passed" if line["passed"] else "**failed**"
        if "reason" in line:
            yield _row(line["gate"], NOTHING, "", f"{verdict}: {line['reason']}")
            continue
        off = f"{line['off']:.2g} {line['unit']}"
        yield _row(line["gate"], off, f"{line['most']:.2g}", verdict)


def _training(run: Run) -> Iterator[str]:
    tasks = dict.fromkeys(job.task for job in JOBS if job.part == "training")
    peak = run.ceiling(GEMM)
    for task in tasks:
        shape, lengths, lora = task
        yield f"### {shape}, {f'LoRA, {lengths}' if lora else f'all weights, {lengths}'}"
        yield ""
        yield from _table(
            "contender",
            "s a step",
            "pairs/s",
            "tokens/s",
            "TFLOP/s",
            "of the peak",
            "time over ours",
            "peak GiB allocated / reserved",
            "syncs a step",
            "s before",
        )
        jobs = [job for job in JOBS if job.part == "training" and job.task == task]
        ours = next((_median(run, job) for job in jobs if job.contender == OURS), None)
        for job in jobs:
            yield _trained(run, job, ours, peak)
        yield ""
    yield (
        "Tokens and operations count each prompt once and the head at response tokens alone, for "
        "everybody: what a trainer does twice is no work. The peak is the card's measured one. "
        "`s before`: models, reference's log-probs where they are computed before, compilation."
    )
    beside = [line["card_tflops"] for job in JOBS for line in run.of(job, "card_tflops")]
    if beside:
        yield ""
        yield (
            "The card changed little or much meanwhile: that product ran at "
            f"{min(beside):,.3g} to {max(beside):,.3g} TFLOP/s beside the contenders."
        )


def _trained(run: Run, job: Job, ours: float | None, peak: float | None) -> str:
    found = run.of(job, "step_seconds")
    step = _median(run, job)
    if step is None:
        return _row(job.contender, f"{NOTHING}: {run.status(job)}", *[""] * 8)
    bench = Bench("cpu" if run.machine["dry"] else "cuda", run.machine["dry"])
    shape = bench.shape(job.shape)
    pairs = bench.pairs(job.lengths, shape["vocab_size"])
    # All steps take pairs of the same distribution: a step's share of all of them.
    share = bench.pairs_per_step / len(pairs)
    rate = Work(shape, trains_all=not job.lora).flops(pairs) * share / step / 1e12
    seconds = [one for line in found for one in line["step_seconds"]]
    memory = [max(line[key] for line in found) / GIB for key in ("peak_allocated", "peak_reserved")]
    syncs = found[0]["syncs"]
    return _row(
        job.contender,
        f"{step:.3g} ({min(seconds):.3g} to {max(seconds):.3g})",
        f"{bench.pairs_per_step / step:,.3g}",
        f"{pairs.sizes.sum() * share / step:,.0f}",
        f"{rate:,.3g}",
        f"{rate / peak:.1%}" if peak else NOTHING,
        f"{step / ours:.2f}" if ours else NOTHING,
        f"{memory[0]:.1f} / {memory[1]:.1f}",
        NOTHING if syncs is None else str(syncs),
        f"{found[0]['preparing']:.1f}",
    )


def _median(run: Run, job: Job) -> float | None:
    seconds = [one for line in run.of(job, "step_seconds") for one in line["step_seconds"]]
    return statistics.median(seconds) if seconds else None


def _decoding(run: Run) -> Iterator[str]:
    yield from _table("model", "contender", "rows", "tokens/s", "time over the floor", "peak GiB")
    copy = run.ceiling(COPY)
    for job in (job for job in JOBS if job.part == "decode"):
        found = run.of(job, "decode_seconds")
        if not found:
            yield _row(job.shape, job.contender, f"{NOTHING}: {run.status(job)}", "", "", "")
            continue
        line = found[0]
        floor = line["least_bytes"] / (copy * 1e9) if copy else None
        yield _row(
            job.shape,
            job.contender,
            str(line["rows"]),
            f"{line['tokens'] / line['decode_seconds']:,.0f}",
            f"{line['decode_seconds'] / floor:.2f}" if floor else NOTHING,
            f"{line['peak_allocated'] / GIB:.1f}",
        )
    yield ""
    yield (
        "The floor reads all weights and every row's past, in bf16, once a token at the measured "
        "rate of copying. Prompts are read within the time that is compared with it."
    )


def _sweeps(run: Run) -> Iterator[str]:
    for job in (job for job in JOBS if job.part == "sweep"):
        found = run.of(job, "sweep_seconds")
        if not found:
            yield f"{NOTHING}: {run.status(job)}"
            continue
        trials = [sum(one.values()) for one in found[0]["trials"]]
        total = found[0]["sweep_seconds"]
        each = ", ".join(f"{one:.1f}" for one in trials)
        yield (
            f"{total:.1f} s from the command to the report, of which the trials took {each} s; "
            f"{total - sum(trials):.1f} s are imports, data, the reference and the report."
        )


def _unmeasured(run: Run) -> Iterator[str]:
    for job in JOBS:
        status = run.status(job)
        if status != "done":
            yield f"- {job.name}: {status}"
    for text in NOT_MEASURED:
        yield f"- {text}"


def _table(*titles: str) -> tuple[str, str]:
    return _row(*titles), _row(*["---"] * len(titles))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
