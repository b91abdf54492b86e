"""Sweeps under the same conditions become one; others are refused by the condition that differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.merge import merge_sweeps
from dpo_bench.analysis.results import read_sweep
from dpo_bench.analysis.series import group_series
from dpo_bench.errors import ConfigurationError
from dpo_bench.report.view import build_view
from dpo_bench.report.write import report_sweeps
from dpo_bench.sweep.store import Store
from tests.report.sweep_folder import build
from tests.report.sweep_search import rewrite, searched
from tests.report.sweep_world import Sweep
from tests.sealing import as_written

CONDITIONS: dict[str, Any] = {
    "content": {"data": "c4", "policy": "a1", "reference": "a1", "reward": "v", "device": "cpu"},
    "evaluation": {"prompts": 32, "temperature": 1.0},
    "training": {"steps": 120, "precision": "fp32"},
    "keep_policies": False,
}


def make(folder: Path, losses: tuple[str, ...], **changes: Any) -> Path:
    small = Sweep(losses=losses, strengths=2, failed=(), prompts=32, reference_samples=8)
    build(folder, small)
    return under(folder, CONDITIONS, changes)


def under(folder: Path, conditions: dict[str, Any], changes: dict[str, Any]) -> Path:
    """The sweep with some of its conditions changed."""
    changed = {name: conditions[name] | values for name, values in changes.items()}
    Store(folder).add_to_record({"conditions": conditions | changed})
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("merge")
    return make(root / "one", ("dpo", "ipo")), make(root / "two", ("dpo", "hinge"))


def test_shared_trials_count_once_and_name_their_sources(pair: tuple[Path, Path]) -> None:
    merged = merge_sweeps([read_sweep(folder) for folder in pair])
    sources = {(t.loss, t.strength): t.sources for t in merged.trials}
    assert len(merged.trials) == len(merged.table) == 6
    assert sources["dpo", 0.03] == ("one", "two")
    assert sources["ipo", 0.1] == ("one",)
    assert sources["hinge", 0.03] == ("two",)
    assert merged.name == "one and two"
    assert "2 trials occur in more than one sweep" in " ".join(merged.remarks)
    assert len(build_view(merged).series) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"content": {"data": "ff"}}, "the preference data differs (c4 and ff)"),
        ({"content": {"reference": "ff"}}, "the reference differs"),
        ({"content": {"reward": "other"}}, "the reward differs (v and other)"),
        ({"evaluation": {"temperature": 0.7}}, "evaluation.temperature differs (1.0 and 0.7)"),
        ({"training": {"precision": "bf16"}}, "training.precision differs (fp32 and bf16)"),
    ],
)
def test_what_does_not_compare_is_refused_by_name(
    pair: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    other = Path(shutil.copytree(pair[1], tmp_path / "other"))
    under(other, CONDITIONS, changes)
    with pytest.raises(ConfigurationError) as error:
        merge_sweeps([read_sweep(pair[0]), read_sweep(other)])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("turned", [False, True])
def test_the_sweep_that_records_no_conditions_is_named(
    pair: tuple[Path, Path], tmp_path: Path, turned: bool
) -> None:
    other = Path(shutil.copytree(pair[1], tmp_path / "other"))
    Store(other).add_to_record({"conditions": {}})
    both = [read_sweep(pair[0]), read_sweep(other)]
    with pytest.raises(ConfigurationError, match=f"{other} records no conditions"):
        merge_sweeps(both[::-1] if turned else both)


def test_machines_may_differ_and_that_is_said(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = make(tmp_path / "gpu", ("hinge",), content={"device": "cuda/bf16"})
    merged = merge_sweeps([read_sweep(pair[0]), read_sweep(other)])
    remarks = " ".join(merged.remarks)
    assert "(Linux, 2 CPU cores, cpu; Linux, 2 CPU cores, cuda/bf16)" in remarks


def changed(folder: Path, table: dict[str, float], **record: Any) -> Path:
    """The sweep as another machine would have it: the same trials, other last digits."""
    Store(folder).add_to_record(record)
    results = pd.read_parquet(folder / "results.parquet")
    for column, shift in table.items():
        results[column] += shift
    results.to_parquet(folder / "results.parquet")
    return as_written(folder)


def test_processors_and_versions_may_differ_and_by_how_much_is_said(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(pair[0], tmp_path / "other"))
    changed(
        other,
        {"kl": 0.031, "win_rate": -0.007},
        platform="Linux x86_64 AVX512, cpu",
        versions={"torch": "2.14.1", "python": "3.11.9"},
    )
    merged = merge_sweeps([read_sweep(pair[0]), read_sweep(other)])
    remarks = " ".join(merged.remarks)
    assert "KL is up to 0.031 nats and their win rate up to 0.007 apart" in remarks
    assert "Linux x86_64 AVX512, cpu, " in remarks
    assert "torch 2.13.0+cpu" in remarks
    assert "torch 2.14.1" in remarks
    assert "python" not in remarks
    assert list(merged.table["kl"]) == list(read_sweep(pair[0]).table["kl"])


def test_on_one_machine_nothing_is_said_of_rounding(pair: tuple[Path, Path]) -> None:
    remarks = " ".join(merge_sweeps([read_sweep(folder) for folder in pair]).remarks)
    assert "rounding" not in remarks


def test_another_source_of_a_loss_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(pair[1], tmp_path / "other"))
    table = pd.read_parquet(other / "results.parquet")
    old = table["trial"][0]
    (other / "trials" / old).rename(other / "trials" / "new")
    table["trial"] = table["trial"].replace(old, "new")
    table.to_parquet(other / "results.parquet")
    as_written(other)
    with pytest.raises(ConfigurationError, match="source of the loss dpo differs"):
        merge_sweeps([read_sweep(pair[0]), read_sweep(other)])


def test_the_report_of_several_has_a_source_column(pair: tuple[Path, Path], tmp_path: Path) -> None:
    page = report_sweeps(list(pair), tmp_path / "both", "html")
    text = page.read_text()
    assert page == tmp_path / "both" / "report.html"
    assert "one and two" in text
    assert ">Source</button>" in text
    table = pd.read_csv(tmp_path / "both" / "results.csv")
    assert set(table["source"]) == {"one, two", "one", "two"}
    assert json.loads((tmp_path / "both" / "sources.json").read_text()).keys() == {"one", "two"}
    stamp = page.stat().st_mtime_ns
    report_sweeps(list(pair), tmp_path / "both", "html")
    assert page.stat().st_mtime_ns == stamp
    with pytest.raises(ConfigurationError, match="is a sweep's folder"):
        report_sweeps(list(pair), pair[0], "html")


def at_rate(folder: Path, rate: float, losses: tuple[str, ...] = ("dpo", "ipo")) -> Path:
    """A sweep whose trials are those of another learning rate, with ids of their own."""
    make(folder, losses, training={"learning_rate": rate})
    table = pd.read_parquet(folder / "results.parquet")
    for identity in table["trial"]:
        own = folder / "trials" / str(identity)
        manifest = json.loads((own / "manifest.json").read_text())
        renamed = f"{rate:g}-{identity}"
        manifest |= {"trial": renamed, "training": {"learning_rate": rate, "steps": 120}}
        (own / "manifest.json").write_text(json.dumps(manifest))
        own.rename(own.parent / renamed)
    table["trial"] = [f"{rate:g}-{identity}" for identity in table["trial"]]
    table.to_parquet(folder / "results.parquet")
    return as_written(folder)


def test_sweeps_that_differ_in_what_is_tuned_merge_and_keep_their_values(tmp_path: Path) -> None:
    slow, fast = at_rate(tmp_path / "slow", 1e-4), at_rate(tmp_path / "fast", 1e-3, ("dpo",))
    merged = merge_sweeps([read_sweep(slow), read_sweep(fast)])
    assert len(merged.trials) == 6, "the same strengths at two learning rates are two settings"
    dpo, ipo = group_series(merged)
    assert [one.label for one in dpo.options] == ["learning_rate 0.0001", "learning_rate 0.001"]
    assert ipo.options == ()
    said = " ".join(merged.remarks)
    assert "They differ in learning_rate (0.0001; 0.001)" in said
    assert "counts once" not in said
    assert any(one.key == "tuning" for one in build_view(merged).further)


def test_a_search_and_given_strengths_are_one_comparison(tmp_path: Path) -> None:
    found = searched(tmp_path / "searched")
    given = build(
        tmp_path / "given",
        Sweep(losses=("hinge",), failed=(), prompts=64, reference_samples=16, seeds=(0, 1)),
    )
    for folder in (found, given):
        Store(folder).add_to_record({"conditions": CONDITIONS})
    rewrite(given, lambda _one: {"training": {"learning_rate": 1e-3, "steps": 120}})
    merged = merge_sweeps([read_sweep(folder) for folder in (found, given)])
    labels = {one.label: len(one.settings) for one in group_series(merged)}
    assert labels == {"dpo": 3, "ipo": 3, "hinge": 5}
    assert isinstance(build_view(merged).comparison, MatchedComparison)


def at_another_rate(folder: Path, rate: float) -> Path:
    """A searched folder as the same search at another learning rate would have left it."""
    found = searched(folder)
    for name in ("search.json", "experiment.json"):
        text = (found / name).read_text()
        for path in found.glob("trials/*"):
            text = text.replace(path.name, f"{path.name}-other")
        (found / name).write_text(text)
    table = pd.read_parquet(found / "results.parquet")
    table["trial"] = table["trial"] + "-other"
    table.to_parquet(found / "results.parquet")
    for path in list(found.glob("trials/*")):
        manifest = json.loads((path / "manifest.json").read_text())
        manifest |= {"trial": f"{path.name}-other", "training": {"learning_rate": rate}}
        (path / "manifest.json").write_text(json.dumps(manifest))
        path.rename(path.with_name(f"{path.name}-other"))
    as_written(found)
    training = {**CONDITIONS["training"], "learning_rate": rate}
    Store(found).add_to_record({"conditions": {**CONDITIONS, "training": training}})
    return found


def test_searches_at_two_learning_rates_are_tuned_by_loss(tmp_path: Path) -> None:
    first = searched(tmp_path / "first")
    training = {**CONDITIONS["training"], "learning_rate": 1e-3}
    Store(first).add_to_record({"conditions": {**CONDITIONS, "training": training}})
    second = at_another_rate(tmp_path / "second", 5e-4)
    merged = merge_sweeps([read_sweep(folder) for folder in (first, second)])
    by_key = {one["key"]: one["chosen"] for one in merged.search["series"]}
    assert sum(by_key.values()) == 2
    assert {key.partition(" ")[0] for key, chosen in by_key.items() if chosen} == {"dpo", "ipo"}
    dpo, ipo = group_series(merged)
    assert len(dpo.options) == len(ipo.options) == 2
    assert [len(dpo.settings), len(ipo.settings)] == [3, 3]


def test_searches_of_different_length_are_no_one_comparison(tmp_path: Path) -> None:
    first = searched(tmp_path / "first")
    Store(first).add_to_record({"conditions": CONDITIONS})
    second = at_another_rate(tmp_path / "second", 1e-3)
    training = {**CONDITIONS["training"], "steps": 7}
    Store(second).add_to_record({"conditions": {**CONDITIONS, "training": training}})
    with pytest.raises(ConfigurationError, match=r"searched, and training\.steps differs"):
        merge_sweeps([read_sweep(folder) for folder in (first, second)])
