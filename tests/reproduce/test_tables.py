"""Tables of papers: what is published, what n allows, and our column from a sweep."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dpo_bench.contract import get_loss
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment import plan_trials
from dpo_bench.experiment.read import find_file, read_file, shipped, validate
from dpo_bench.reproduce.entries import find_experiment
from dpo_bench.reproduce.paper_tables import BLANK, FAILED, PublishedTable, published_tables
from dpo_bench.reproduce.precision import Difference
from dpo_bench.reproduce.record import PROVENANCE, PublishedRow
from dpo_bench.reproduce.show import cells
from dpo_bench.sweep.store import Store
from tests.report.sweep_folder import build
from tests.report.sweep_world import Sweep
from tests.sealing import as_written

TABLES = {table.name: table for table in published_tables()}


def rows(name: str, series: str, *folders: Path) -> dict[float | str, PublishedRow]:
    found = find_experiment(name).run(folders).rows
    return {row.x: row for row in found if row.series == series}


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_table_is_whole(table: PublishedTable) -> None:
    for column in table.columns:
        assert len(column.x) == len(column.published)
        assert {c for c in column.published if isinstance(c, str)} <= {FAILED, BLANK}
        assert column.provenance in {*PROVENANCE, ""}
        assert set(column.notes or {}) <= {str(x) for x in column.x}
        assert set(column.provenances or {}) <= {str(x) for x in column.x}
        if column.loss:
            get_loss(column.loss)
        if column.unit:
            assert all(0 < share < 1 for x in column.x if (share := column.share(x)) is not None)
    names = {column.series for column in table.columns}
    assert {series for pair in table.compare for series in pair} <= names
    assert all(row.reproduced is None and row.ok is None for row in table.run().rows)


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("paper-")])
def test_every_file_plans_and_belongs_to_a_table(name: str) -> None:
    file = find_file(name)
    assert plan_trials(validate(read_file(file), name))
    assert any(name in table.experiments for table in TABLES.values())
    comment = file.read_text(encoding="utf-8")
    assert comment.startswith("# ")
    assert any(f"reproduce {table}`" in comment for table in TABLES)


def test_files_that_tables_name_are_shipped() -> None:
    assert {name for table in TABLES.values() for name in table.experiments} <= set(shipped())


def test_dpo_over_ppo_is_not_separated_at_256() -> None:
    difference = Difference((0.617, 0.570), 256)
    assert difference.error == pytest.approx(
        100 * math.sqrt((0.617 * 0.383 + 0.57 * 0.43) / 256), abs=1e-9
    )
    assert not difference.separated
    outcome = find_experiment("dpo-tldr").run()
    assert "At 0: DPO 4.7 ± 4.3 points over PPO: not separated." in outcome.text
    assert Difference((0.617, 0.38), 256).separated


def test_reading_by_eye_widens_the_error() -> None:
    assert Difference((0.6, 0.5), 256, by_eye=True).error > Difference((0.6, 0.5), 256).error


def test_failed_and_blank_cells_stay_what_they_are() -> None:
    failed = rows("discopop-imdb", "LRML (discopop), mean reward")[2.5]
    assert cells(failed)[2:] == ("\u2013", "\u2013", "\u2013", "failed in the paper")
    assert failed.as_dict()["published"] is None
    blank = rows("simpo", "CPO, AlpacaEval 2 LC (%)")["Llama3-Instruct"]
    assert blank.published is None
    assert "not re-runnable" in blank.note


def test_eye_read_figures_say_so_everywhere() -> None:
    row = rows("dpo-tldr", "PPO")[1.0]
    assert cells(row)[2] == "≈ 0.07 [eye]"
    assert row.as_dict()["series"] == "PPO [eye]"
    assert rows("dpo-tldr", "PPO")[0.0].as_dict()["series"] == "PPO"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep that says it ran the DiscoPOP file."""
    folder = tmp_path_factory.mktemp("filled") / "sweep"
    build(folder, Sweep(losses=("dpo", "hinge"), failed=(("hinge", 1),), seeds=(0, 1)))
    return claim_settings(folder)


def claim_settings(folder: Path, **evaluation: int) -> Path:
    name = "paper-discopop-imdb"
    settings = validate(read_file(find_file(name)), name).settings()
    settings["evaluation"] |= evaluation
    Store(folder).add_to_record({"experiment": settings})
    return folder


def test_our_column_is_filled_from_a_sweep_and_nothing_is_imputed(sweep: Path) -> None:
    filled = rows("discopop-imdb", "DPO, mean reward", sweep)
    assert filled[0.1].reproduced == pytest.approx(0.80, abs=0.05)
    assert filled[0.025].reproduced is None
    assert filled[0.1].published == 0.9642
    hinge = rows("discopop-imdb", "SLiC (hinge), mean reward", sweep)
    assert hinge[0.1].reproduced is None
    assert hinge[0.1].note == "ours failed"
    assert hinge[1.0].reproduced is not None
    kl = rows("discopop-imdb", "DPO, KL per token with prompt", sweep)
    assert all(row.reproduced is None for row in kl.values())


def test_another_setting_is_named_and_another_experiment_refused(
    sweep: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="displacement is filled from paper-displacement"):
        find_experiment("displacement").run([sweep])
    build(tmp_path / "sweep", Sweep(losses=("dpo",)))
    other = claim_settings(tmp_path / "sweep", max_new_tokens=8)
    assert "evaluation.max_new_tokens = 8 instead of 60" in (
        find_experiment("discopop-imdb").run([other]).text
    )


def test_a_verdict_needs_the_papers_n_and_the_same_settings(sweep: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    table = TABLES["discopop-imdb"]
    column = replace(table.columns[0], unit="share")
    with_n = replace(table, n=256, columns=(column,))
    judged = {row.x: row for row in with_n.run([sweep]).rows}
    assert judged[0.1].ok is False  # .80 against .9642 at n 256
    assert judged[0.025].ok is None
    assert all(row.ok is None for row in table.run([sweep]).rows)
    build(tmp_path / "sweep", Sweep(losses=("dpo",)))
    other = claim_settings(tmp_path / "sweep", max_new_tokens=8)
    assert all(row.ok is None for row in with_n.run([other]).rows)


def test_an_adapter_is_another_setting(tmp_path: Path) -> None:
    """The shipped file trains all weights; the keys of an adapter are none of its own."""
    build(tmp_path / "sweep", Sweep(losses=("dpo",)))
    folder = claim_settings(tmp_path / "sweep")
    file = folder / "experiment.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["experiment"]["training"]["lora"] = {"rank": 8}
    file.write_text(json.dumps(record), encoding="utf-8")
    as_written(folder)
    text = find_experiment("discopop-imdb").run([folder]).text
    assert "training.lora.rank = 8 instead of None" in text
