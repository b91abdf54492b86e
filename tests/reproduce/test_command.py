"""`reproduce` on the command line, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from dpo_bench.cli import app
from dpo_bench.errors import ConfigurationError
from dpo_bench.reproduce import entries as registry
from dpo_bench.reproduce.record import KEYS, PublishedRow, Reproduced, RunnableResult
from dpo_bench.reproduce.show import cells, published_text, summary
from tests.reproduce.conftest import Run

REPORTS = Path(__file__).parents[2] / "reports" / "exact"
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command() -> Command:
    def invoke(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["reproduce", *arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return invoke


def test_without_a_name_it_lists_source_and_cost(command: Command) -> None:
    code, text = command()
    assert code == 0
    for experiment in registry.experiments():
        (line,) = (one for one in text.splitlines() if one.startswith(f"{experiment.name} "))
        assert experiment.source in line
        assert f"  {experiment.cost}  " in line


def test_it_prints_published_beside_reproduced(command: Command) -> None:
    code, text = command("noise-identities")
    assert code == 0
    (line,) = (one for one in text.splitlines() if "beta 0.3, e 0.2" in one and "cDPO" in one)
    assert line.split()[-4:] == ["[formula]", "4.621", "1e-09", "ok"]
    assert "─" not in text  # plain where it is not a terminal


def test_json_is_a_list_of_rows_with_the_fixed_keys(command: Command) -> None:
    code, text = command("ranking-flip", "--json")
    rows = json.loads(text, parse_constant=pytest.fail)
    assert code == 0
    assert len(rows) == 4
    assert all(tuple(row) == KEYS for row in rows)
    assert rows[0]["published"] == 0.474


def test_out_writes_report_figures_and_table(command: Command, tmp_path: Path) -> None:
    code, _ = command("noise-identities", "--out", str(tmp_path / "here"))
    assert code == 0
    found = sorted(str(path.relative_to(tmp_path / "here")) for path in tmp_path.rglob("*.*"))
    assert found == [
        "figures/noise-identities.png",
        "figures/noise-identities.svg",
        "noise-identities.csv",
        "report.md",
    ]
    table = pd.read_csv(tmp_path / "here" / "noise-identities.csv")
    assert list(table.columns) == [*KEYS, "provenance", "rerun"]
    assert table["ok"].all()
    report = (tmp_path / "here" / "report.md").read_text(encoding="utf-8")
    assert "6 of 6 verdicts hold" in report
    assert "torch" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ipo-figur-1"], "did you mean 'ipo-figure-1'"),
        (["ipo-figure-1", "--exact"], "give it no name"),
        (["ranking-flip", "--runs", "x"], "not filled from runs"),
        (["discopop-imdb", "--runs", "nowhere"], "not a sweep's folder"),
        (["--out", "x"], "need a name"),
        (["--data", "x"], "need a name"),
        (["ranking-flip", "--data", "."], "reads no file"),
        (["dpo-tldr", "--data", "."], "filled from sweeps"),
        (["discopop-imdb", "--data", ".", "--runs", "."], "one of both"),
        (["alpaca-eval-length-control"], "git clone .* --data PATH"),
        (["alpaca-eval-length-control", "--data", "nowhere"], "there is no nowhere"),
    ],
)
def test_wrong_usage_is_an_error(command: Command, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        command(*arguments)
    assert caught.value.exit_code == 2


def test_a_failed_verdict_ends_with_1(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpo_bench.reproduce.exact import ranking_flip

    monkeypatch.setattr(ranking_flip, "PUBLISHED", {(0.1, 5.0): 0.5})
    code, text = command("ranking-flip")
    assert code == 1
    assert "FAILS" in text


def test_exact_runs_all_and_fails_if_one_does(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = tuple(
        one for one in registry.EXPERIMENTS if one.name in {"ranking-flip", "noise-identities"}
    )
    monkeypatch.setattr(registry, "EXPERIMENTS", quick)
    code, text = command("--exact", "--json")
    assert code == 0
    assert len({row["source"] for row in json.loads(text)}) == 2


def test_figures_are_the_same_bytes_again(run: Run) -> None:
    from dpo_bench.reproduce.draw import draw

    for name in ("noise-identities", "population-optima"):
        assert draw(run(name)) == draw(run(name))


def test_an_eye_read_figure_is_never_printed_as_if_tabulated() -> None:
    row = PublishedRow("p", "s", 1.0, 0.5, None, None, "eye")
    assert published_text(row) == "≈ 0.5 [eye]"
    assert cells(row)[3:] == ("\u2013",) * 3


def test_rows_without_a_verdict_are_counted() -> None:
    rows = (
        PublishedRow("p", "s", 1.0, 1.0, 1.0, 0.1, "src"),
        PublishedRow("p", "s", 2.0, None, 1.0),
    )
    assert summary(Reproduced(rows, "")) == "1 of 1 within tolerance; 1 rows without a verdict."
    assert summary(Reproduced(rows[1:], "")).startswith("No row has a verdict")


@pytest.mark.parametrize("experiment", registry.exact_experiments(), ids=lambda one: one.name)
def test_the_committed_report_is_what_a_run_gives(run: Run, experiment: RunnableResult) -> None:
    table = pd.read_csv(REPORTS / f"{experiment.name}.csv")
    rows = run(experiment.name).rows
    assert table["series"].tolist() == [row.series for row in rows]
    ours = [row.reproduced for row in rows]
    # sums in another order, on another machine, move trained policies by less than this
    assert table["reproduced"].tolist() == pytest.approx(ours, abs=1e-4)
    assert experiment.name in (REPORTS / "report.md").read_text(encoding="utf-8")
