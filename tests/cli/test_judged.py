"""A sweep that a judge decides, as it is typed."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dpo_bench.analysis.opponents import read_opponents
from dpo_bench.experiment.config import Evaluation
from dpo_bench.storage import read_parquet
from dpo_bench.sweep.judging import count_questions
from tests.cli.command import QUICK, dpo_bench, dpo_bench_here, results
from tests.rewards.judge_server import asked, running


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as address:
        yield address


def base(llama_folder: Path, pairs_file: Path) -> tuple[object, ...]:
    source = ("--policy", llama_folder, "--preferences", pairs_file)
    return ("sweep", *source, "--losses", "dpo", "--beta", "0.1,0.5", *QUICK)


def test_a_judged_sweep_has_win_rates_controls_and_costs_but_no_reward(
    llama_folder: Path, pairs_file: Path, tmp_path: Path, url: str
) -> None:
    out = tmp_path / "out"
    arguments = (
        *base(llama_folder, pairs_file),
        *("--reward", "judge:rule", f"--set=evaluation.judge_base_url={url}"),
        *('--set=evaluation.judge_key_variable=""', "--set=evaluation.judge_round_robin=true"),
        *("--out", out),
    )
    done = dpo_bench(*arguments)
    assert "win rate" in done.stdout
    assert "No reward" not in done.stdout
    table = results(out)
    assert table["status"].tolist() == ["done"] * 2
    assert table[["win_rate", "win_rate_chosen", "judge_consistency"]].notna().all(axis=None)
    assert table[["reward", "reward_low", "frontier_gap"]].isna().all(axis=None)
    assert (table["judge_consistency"] == 1).all()
    assert (table["judge_failures"] == 0).all()
    assert (table["judge_input_tokens"] == 100 * table["judge_requests"]).all()
    assert table["control_self"].isna().all()
    known = [f"control_{name}" for name in ("null", "neutral", "injection", "order", "place")]
    assert table[known].notna().all(axis=None)
    assert not (out / "reference" / "frontier.parquet").exists()
    options = Evaluation(prompts=4, samples_per_prompt=2, judge_round_robin=True)
    most = count_questions(options, trials=2)
    assert table["judge_requests"].sum() <= most.trials
    taken = json.loads((out / "opponents.json").read_text())["judge"]
    assert taken["requests"] <= most.round_robin
    reported(out, int(table["judge_requests"].sum()), taken["requests"])
    names, wins = read_opponents(out / "opponents.parquet")
    assert names == [*table["trial"], "reference", "chosen"]
    np.testing.assert_allclose(wins + wins.swapaxes(0, 1), 1)
    samples = read_parquet(out / "trials" / names[0] / "samples.parquet")
    first = samples[samples["sample"] == 0]
    np.testing.assert_allclose(wins[0, 3], first["win_chosen"])
    assert max(asked(url)) == 1


def test_a_judge_that_follows_the_place_is_said_in_terminal_and_report(
    llama_folder: Path, pairs_file: Path, tmp_path: Path, url: str
) -> None:
    out = tmp_path / "out"
    done = dpo_bench(
        *base(llama_folder, pairs_file),
        *("--reward", "judge:first", f"--set=evaluation.judge_base_url={url}"),
        *('--set=evaluation.judge_key_variable=""', "--out", out),
    )
    first = "The judge follows the place, not the text: its two orders agree on 0 [0, "
    assert f"warning: {first}" in done.stdout
    assert done.stdout.startswith("The judge first follows the place, not the text")
    summary, _, checked = (out / "report.md").read_text("utf-8").partition("Check these figures")
    assert "follows the place, not the text: both orders agree on 0.000 " in summary
    assert "Better than" not in summary
    evaluated = dpo_bench_here(
        *("evaluate", llama_folder, "--reference", llama_folder),
        *("--preferences", pairs_file, *QUICK),
        *("--reward", "judge:first", f"--set=evaluation.judge_base_url={url}"),
        '--set=evaluation.judge_key_variable=""',
    )
    assert f"warning: {first}" in evaluated.stderr
    assert "The judge follows the place, not the text: both orders agree on 0.000" in checked


def reported(out: Path, trials: int, round_robin: int) -> None:
    """The report of the sweep above tells what the judge said and what it took."""
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "Judge's win rate against the reference" in text
    assert re.search(r"Order .* \| at least 0\.6 \| as it must be", text)
    assert "follows the place" not in text
    assert f"| Trials | {trials} | 0 | {100 * trials:,} | {trials} | \u2013 |" in text
    assert f"| Round robin | {round_robin} | 0 | {100 * round_robin:,} |" in text
    assert re.search(r"judge: (beats|ties with|loses to) the reference", text)
    page = (out / "report.html").read_text(encoding="utf-8")
    found = re.search(r'id="samples-packed">([A-Za-z0-9+/=]*)<', page)
    assert found is not None
    (first, *_) = json.loads(zlib.decompress(base64.b64decode(found[1])))["policies"]
    assert {"win_reference", "win_chosen", "judge_agreed"} <= set(first)
    assert set(first["win_reference"]) <= {0, 0.5, 1}


def test_a_judge_without_its_key_stops_before_any_training(
    llama_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    done = dpo_bench(
        *base(llama_folder, pairs_file),
        *("--reward", "judge:any", "--set=evaluation.judge_key_variable=NO_SUCH_KEY"),
        *("--out", tmp_path / "out"),
        code=3,
    )
    assert "NO_SUCH_KEY" in done.stderr
    assert "Traceback" not in done.stderr
