"""A report reads the experiment once, and says nothing of one that it does not have."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dpo_bench.analysis.external import from_frame
from dpo_bench.analysis.results import SweepResults, read_sweep
from dpo_bench.errors import ConfigurationError
from dpo_bench.report.configuration import read_experiment
from dpo_bench.report.figures.draw import figure_names
from dpo_bench.report.markdown import render_markdown
from dpo_bench.report.page import render_page
from dpo_bench.report.sections.methods import appendix
from dpo_bench.report.view import build_view
from dpo_bench.report.write import write_report
from tests.report.conftest import ByName, ViewOf
from tests.report.sections.test_setup import with_settings
from tests.sealing import as_written


def runs(scored: str) -> SweepResults:
    """Another program's results: two losses at three strengths, eight prompts each."""
    rows = [
        {
            "loss": loss,
            "strength": strength,
            "prompt": f"p{prompt}",
            "kl": 1.0 / strength + 0.01 * prompt,
            scored: min(1.0, 0.1 * place + 0.05 * prompt),
        }
        for place, loss in enumerate(("theirs", "ours"))
        for strength in (0.1, 0.3, 1.0)
        for prompt in range(8)
    ]
    return from_frame(pd.DataFrame(rows), "table.csv")


def test_it_is_the_experiment_that_the_sweep_ran(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert view.experiment is not None
    assert view.experiment.training.learning_rate == 1e-3
    assert view.experiment.settings() == view.results.experiment


@pytest.mark.parametrize(
    ("made_by", "said"), [("0.0.1", "It is of dpo_bench 0.0.1:"), ("", "of another version")]
)
def test_an_experiment_of_another_version_is_refused_in_one_line(
    folder_of: ByName, tmp_path: Path, made_by: str, said: str
) -> None:
    folder = Path(shutil.copytree(folder_of("single"), tmp_path / "sweep"))
    file = folder / "experiment.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["experiment"]["training"] |= {"clipping": 3, "steps": "many"}
    record["versions"]["dpo_bench"] = made_by
    file.write_text(json.dumps(record), encoding="utf-8")
    as_written(folder)
    with pytest.raises(ConfigurationError) as error:
        write_report(folder)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{file}: training.steps = 'many'")
    assert said in line
    assert "run it again with this one" in line


def test_a_missing_key_has_its_default(folder_of: ByName) -> None:
    """A sweep of before a key existed was run as its default says."""
    results = read_sweep(folder_of("clean"))
    settings = {key: value for key, value in results.experiment.items() if key != "data"}
    found = read_experiment(dataclasses.replace(results, experiment=settings))
    assert found is not None
    assert found.data.max_prompt_tokens == 512


def test_results_from_elsewhere_have_no_experiment_and_none_is_made_up() -> None:
    view = build_view(runs("reward"))
    assert view.experiment is None
    assert view.setup.fixed == (
        ("Training and evaluation", "not recorded"),
        ("Training seeds", "0"),
    )
    assert view.setup.settings == ()
    text = render_markdown(view, figure_names(view))
    paragraphs = " ".join(appendix(view.results, None, view.series, view.comparison))
    assert "does not record how the policies were trained and measured" in paragraphs
    for words in ("not set", "None", "learning rate", "Run it again", "same sampling seeds"):
        assert words not in text
        assert words not in paragraphs
    page = render_page(view, "0" * 64, figure_names(view), ["report.md"])
    assert "Run it again" not in page
    assert "experiment.json" not in page


def test_figures_that_are_not_known_prompt_by_prompt_claim_no_prompts() -> None:
    """A row per run: only seeds tell how sure a figure is."""
    rows = [
        {
            "loss": loss,
            "strength": strength,
            "seed": seed,
            "kl": 1.0 / strength + 0.02 * seed,
            "reward": 0.1 * place + 0.3 * strength + 0.01 * seed * (1 + place),
        }
        for place, loss in enumerate(("theirs", "ours"))
        for strength in (0.1, 0.3, 1.0)
        for seed in (0, 1, 2)
    ]
    view = build_view(from_frame(pd.DataFrame(rows), "table.csv"))
    assert view.matched is not None
    figures = figure_names(view)
    text = render_markdown(view, figures)
    page = render_page(view, "0" * 64, figures, ["report.md"]).split("<script")[0]
    for words in ("1 prompts", "n = 0", "from prompts", "over prompts and", "results.csv"):
        assert words not in text
        assert words not in page
    assert "paired over seeds" in text
    assert "standard error" in text
    assert "from runs" in text
    assert "have no interval" in text


def test_shares_of_beaten_opponents_from_elsewhere_are_no_missing_reward() -> None:
    view = build_view(runs("win"))
    assert view.no_reward.startswith("Only shares of beaten opponents are known")
    assert "no reward" not in " ".join(view.findings.sentences)


def test_how_long_it_trained_is_said_in_words(view_of: ViewOf) -> None:
    view = view_of("clean")
    for epochs, words in (
        (1.0, "1 epoch in steps of 32 pairs"),
        (0.5, "0.5 epochs in steps of 32 pairs"),
        (None, "one epoch, or 30 steps where that is more, of 32 pairs"),
    ):
        results = with_settings(view, training__steps=None, training__epochs=epochs)
        trained, _ = appendix(results, read_experiment(results), view.series, view.comparison)
        assert f"Training took {words} with adamw" in trained
    trained, _ = appendix(view.results, view.experiment, view.series, view.comparison)
    assert "Training took 120 steps of 32 pairs with adamw" in trained
