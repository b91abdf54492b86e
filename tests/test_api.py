"""The package in Python: one small sweep, run, read, compared, drawn and reported."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest

import dpo_bench as db
from dpo_bench.errors import ConfigurationError

mpl.use("Agg")

TINY_TRAINING = {"steps": 5, "log_every": 5}
TINY_EVALUATION = {"prompts": 32, "reference_samples": 8, "resamples": 200, "reward": "vader"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> db.Sweep:
    return db.run_sweep(
        "quickstart",
        losses=["dpo", {"name": "ipo", "beta": [0.1, 1.0]}],
        beta=[0.1, 1.0],
        seeds=[0],
        training=TINY_TRAINING,
        evaluation=TINY_EVALUATION,
        out=tmp_path_factory.mktemp("api") / "sweep",
        workers=1,
        loudness="quiet",
    )


def test_what_was_asked_for_was_run(sweep: db.Sweep) -> None:
    assert sweep.outcome is not None
    assert (sweep.outcome.computed, sweep.outcome.failed) == (4, 0)
    assert sweep.trials[["loss", "beta", "seed"]].values.tolist() == [
        ["dpo", 0.1, 0],
        ["dpo", 1.0, 0],
        ["ipo", 0.1, 0],
        ["ipo", 1.0, 0],
    ]
    assert len(sweep.samples) == 4 * 32 * 2
    assert set(sweep.training_log["trial"]) == set(sweep.trials["trial"])


def test_the_same_call_resumes(sweep: db.Sweep) -> None:
    again = db.run_sweep(
        "quickstart",
        losses="dpo",
        beta="0.1",
        seeds=0,
        training=TINY_TRAINING,
        evaluation=TINY_EVALUATION,
        out=sweep.folder,
        workers=1,
        loudness="quiet",
    )
    assert again.outcome is not None
    assert again.outcome.computed == 0


def test_a_loaded_sweep_is_the_one_that_ran(sweep: db.Sweep) -> None:
    loaded = db.load_sweeps([sweep.folder])
    assert loaded.outcome is None
    pd.testing.assert_frame_equal(loaded.metrics, db.load_sweep(sweep.folder).metrics)


def test_comparison_frontier_and_regret_are_frames(sweep: db.Sweep) -> None:
    found = sweep.compare(baseline="dpo", kl=[0.01])
    assert found[["loss", "against"]].values.tolist() == [["ipo", "dpo"]]
    assert {"kl", "reward"} <= set(sweep.frontier())
    assert {"loss", "kl", "regret"} <= set(sweep.regret([0.01]))
    with pytest.raises(ConfigurationError, match="reward or win_rate"):
        sweep.compare("kl")


def test_plots_draw_on_axes_of_ones_own(sweep: db.Sweep) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2)
    assert sweep.plot.reward_vs_kl(axes[0]) is axes[0]
    assert sweep.plot.heat_map("kl", axes[1]) is axes[1]
    assert axes[0].get_lines()
    plt.close(figure)
    with pytest.raises(ConfigurationError, match="no metric 'kll'"):
        sweep.plot.heat_map("kll")
    with pytest.raises(ConfigurationError, match="no trial"):
        sweep.plot.metric_vs_kl("judge_consistency")


def test_a_notebook_shows_summary_figure_and_trials(sweep: db.Sweep) -> None:
    html = sweep._repr_html_()
    assert "Better than dpo?" in html
    assert "<svg" in html
    assert html.count("<tr>") >= 4
    assert "<strong>dpo</strong>" in db.get_loss("dpo")._repr_html_()


def test_the_report_goes_where_it_is_asked_to(sweep: db.Sweep, tmp_path: Path) -> None:
    page = sweep.report(tmp_path / "report")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sweep.report(tmp_path / "md", "markdown").name == "report.md"
    with pytest.raises(ConfigurationError, match="is a sweep's folder"):
        db.load_results(pd.DataFrame({"loss": ["a", "b"], "reward": [1, 2]})).report(sweep.folder)


def test_an_experiment_and_keys_do_not_go_together(sweep: db.Sweep) -> None:
    experiment = db.Experiment.model_validate(dict(sweep.results.experiment))
    with pytest.raises(ConfigurationError, match="not both"):
        db.run_sweep(experiment, seeds=[1])


def test_a_policy_is_measured_without_a_sweep() -> None:
    found = db.evaluate("world:reviews", evaluation=TINY_EVALUATION).set_index("metric")
    assert found.loc["kl", "value"] == pytest.approx(0.0, abs=1e-6)
    assert found.loc["kl", "unit"] == "nats"


SCRIPT = """
import torch
import dpo_bench as db

@db.register("mine", paper="none", normalization="sum", grid=(0.1, 1.0))
def mine(logps, beta=0.1):
    "DPO by another name."
    return -torch.nn.functional.logsigmoid(beta * logps.margin)

sweep = db.run_sweep(
    "quickstart", losses=["mine", "dpo"], beta=[0.1], seeds=[0], training={training},
    evaluation={evaluation}, out="sweep", workers=2, loudness="quiet",
)
table = sweep.trials.set_index("loss")
assert table.loc["mine", "kl"] == table.loc["dpo", "kl"], table
print(sweep)
"""


@pytest.mark.slow
def test_a_script_without_main_guard_sweeps_its_own_loss(tmp_path: Path) -> None:
    """A loss that the script defines reaches the workers, which do not run the script again."""
    script = tmp_path / "study.py"
    source = textwrap.dedent(SCRIPT).replace("{training}", repr(TINY_TRAINING))
    script.write_text(source.replace("{evaluation}", repr(TINY_EVALUATION)))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "<Sweep quickstart: 2 of 2 trials done>"
