"""The benchmark for a GPU runs, dry, and its page says what was measured and what was not."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import children
from benchmarks.gpu.bench import QUANTILES, Bench, Work
from benchmarks.gpu.children import LINES, append, run_job
from benchmarks.gpu.decode import least_bytes
from benchmarks.gpu.jobs import JOBS, OURS, Job
from benchmarks.gpu.page import write_page
from dpo_bench.data.tokenized import Ragged, TokenizedPairs

DRY = Bench("cpu", dry=True)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LINES).read_text().splitlines()]


def test_a_dry_run_measures_everything_that_can_be_measured_here(tmp_path: Path) -> None:
    """Every contender has its turn, in a process of its own."""
    assert program.main(["--dry", "--out", str(tmp_path)]) == 0

    found = lines(tmp_path)
    ended = {line["job"]: line["status"] for line in found if "status" in line}
    has_trl = importlib.util.find_spec("trl") is not None
    for job in JOBS:
        missing = job.run is None or ("trl" in job.needs and not has_trl)
        assert ended[job.name].startswith("not run: " if missing else "done"), ended[job.name]
    gates = {line["gate"]: line["passed"] for line in found if "gate" in line}
    assert len(gates) == 7
    assert all(gates.values()), gates
    first = [line["first_loss"] for line in found if "first_loss" in line]
    assert first == pytest.approx([np.log(2)] * len(first), abs=1e-6)
    page = (tmp_path / "README.md").read_text()
    assert "A dry run" in page
    assert "open-instruct: not run: a repository of scripts" in page
    assert "flash_attention_forward" in page, "varlen_attn is no CPU's"


def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert program.main(["--out", str(tmp_path)]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_page_is_made_of_a_run_that_was_cut_short(tmp_path: Path) -> None:
    """Figures by hand: steps of 2 and 4 s, a peak of 100 TFLOP/s; the last line is half there."""
    bench = Bench("cuda", dry=False)
    ours, plain = [job for job in JOBS if job.part == "training"][:2]
    card = next(job for job in JOBS if job.part == "card")
    pairs = bench.pairs(ours.lengths, bench.shape(ours.shape)["vocab_size"])
    whole = Work(bench.shape(ours.shape), trains_all=True).flops(pairs)
    machine = {"dry": False, "gpu": "A card", "cpu": "", "versions": {"torch": "2.11"}}
    append(tmp_path, {"machine": {**machine, "pairs_per_step": 32, "timed": 2}})
    ceiling = {"ceiling": "bf16 matrix product", "value": 100.0, "unit": "TFLOP/s"}
    append(tmp_path, {"job": card.name, "turn": 0, **ceiling})
    append(tmp_path, {"job": card.name, "turn": 0, "status": "done"})
    measured = {"preparing": 1.0, "syncs": 7, "peak_allocated": 2**31, "peak_reserved": 2**32}
    for job, seconds in ((ours, [2.0, 2.0]), (plain, [4.0, 8.0, 4.0])):
        append(tmp_path, {"job": job.name, "turn": 0, "step_seconds": seconds, **measured})
        append(tmp_path, {"job": job.name, "turn": 0, "status": "done"})
    with (tmp_path / LINES).open("a") as file:
        file.write('{"job": "half of a li')

    write_page(tmp_path, LINES)

    page = (tmp_path / "README.md").read_text()
    share = whole / bench.steps / 2 / 100e12
    assert f"| dpo_bench | 2 (2 to 2) | 16 | {pairs.sizes.sum() / bench.steps / 2:,.0f} |" in page
    assert f"| {share:.1%} | 1.00 | 2.0 / 4.0 | 7 | 1.0 |" in page
    assert "| TRL as it comes | 4 (4 to 8) | 8 |" in page
    assert "| 2.00 | 2.0 / 4.0 |" in page
    assert "- sweep, dpo_bench: not run: the run was cut short" in page
    assert program.main(["--page", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text() == page


def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--page", str(tmp_path)]) == 2
    assert "give the --out of a run" in capsys.readouterr().err


def sleeps(bench: Bench, say: Callable[[dict[str, Any]], None]) -> None:
    say({"began": True})
    time.sleep(60)


def breaks(bench: Bench, say: Callable[[dict[str, Any]], None]) -> None:
    raise ValueError("on purpose")


class Here:
    """Makes processes that are forked from this one, which knows the jobs of a test."""

    def Process(self, **options: Any) -> Any:  # noqa: N802
        import multiprocessing

        return multiprocessing.get_context("fork").Process(**options)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_contender_that_fails_or_hangs_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = (Job("card", "one", 1, sleeps), Job("card", "two", 9, breaks))
    monkeypatch.setattr(children, "JOBS", jobs)
    (tmp_path / "logs").mkdir()
    context: Any = Here()

    assert run_job(0, DRY, tmp_path, 0, 1.0, context) < 10
    run_job(1, DRY, tmp_path, 0, 9.0, context)

    began, hanging, broken = lines(tmp_path)
    assert began == {"job": "card, one", "turn": 0, "began": True}
    assert hanging["status"] == "not finished in 1 s"
    assert broken["status"] == "failed: ValueError: on purpose"
    assert "Traceback" in (tmp_path / "logs/1-0.txt").read_text()


def test_weights_are_counted_as_the_model_has_them() -> None:
    shape = DRY.shape("1B (Llama 3.2)")
    model = DRY.model("1B (Llama 3.2)")
    inside = [one for layer in model.model.layers for one in layer.modules()]
    linear = [one for one in inside if isinstance(one, torch.nn.Linear)]
    work = Work(shape, trains_all=True)
    assert work.layer_weights == sum(one.weight.numel() for one in linear)
    assert work.head_weights == model.lm_head.weight.numel()


@pytest.mark.parametrize(("trains_all", "each"), [(True, 6), (False, 4)])
def test_operations_of_a_pair_counted_position_by_position(trains_all: bool, each: int) -> None:
    """Prompt of 3, responses of 2 and 4: each position sees its prompt and its own response."""
    prompt, chosen, rejected = (Ragged.of([np.full(size, 5, np.int32)]) for size in (3, 2, 4))
    shape = DRY.shape("135M (SmolLM2)")
    work = Work(shape, trains_all=trains_all)
    seen = sum([1, 2, 3]) + sum([4, 5]) + sum([4, 5, 6, 7])
    # Scores and their use: 2 products of 2 operations, forward once and backward twice.
    attention = seen * shape["num_hidden_layers"] * shape["hidden_size"] * 2 * 2 * 3
    matrices = each * (9 * work.layer_weights + 6 * work.head_weights)
    assert work.flops(TokenizedPairs(prompt, chosen, rejected)) == matrices + attention


def test_the_floor_of_sampling_counted_token_by_token() -> None:
    work = Work(DRY.shape("1B (Llama 3.2)"), trains_all=True)
    heads, layers, width = 2, 2, 16
    past = 2 * 2 * layers * heads * width  # keys and values, two bytes each
    assert work.bytes_of_past() == past
    expected = 0
    for step in range(8):
        expected += work.bytes_of_weights() + 2 * past * ((3 + step) + (5 + step))
    assert least_bytes(DRY, "1B (Llama 3.2)", [[7] * 3, [7] * 5]) == expected


@pytest.mark.parametrize("kind", QUANTILES)
def test_no_text_is_longer_than_trl_leaves_it(kind: str) -> None:
    pairs = Bench("cuda", dry=False).pairs(kind, 1000)
    assert pairs.longest <= 1024
    prompt, response = {"UltraFeedback-like": (125, 300), "HH-like": (125, 60)}[kind]
    assert pairs.prompt.lengths.mean() == pytest.approx(prompt, rel=0.15)
    assert pairs.chosen.lengths.mean() == pytest.approx(response, rel=0.15)


def test_every_job_has_a_name_of_its_own() -> None:
    assert len({job.name for job in JOBS}) == len(JOBS)
    trained = [job for job in JOBS if job.part == "training"]
    assert {job.task for job in trained if job.contender == OURS} == {job.task for job in trained}
