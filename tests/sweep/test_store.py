"""A sweep's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from dpo_bench.errors import ConfigurationError, DamagedError, EnvironmentProblem, LockedError
from dpo_bench.sweep.store import Manifest, Store, link_files, write_manifest

RECORD: dict[str, Any] = {
    "conditions": {"training": {"steps": 5, "learning_rate": 0.1}, "content": {"policy": "p"}},
    "trials": ["t"],
}


def manifest(status: str = "done", **rest: Any) -> Manifest:
    return Manifest("t", status, "dpo", "beta", 0.1, {"beta": 0.1}, 0, **rest)


def finish(store: Store, **fields: Any) -> None:
    with store.new_trial("t") as folder:
        (folder / "data.txt").write_text("result")
        write_manifest(folder, manifest(**fields))


def test_a_trial_appears_whole_with_its_checksums(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.manifest("t") is None
    finish(store)
    found = store.manifest("t")
    assert found is not None
    assert found.is_final
    assert list(found.artefacts) == ["data.txt"]
    assert store.damage("t") == []


def test_damage_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store)
    file = store.trial_folder("t") / "data.txt"
    file.write_text("resulT")
    assert store.damage("t") == ["data.txt"]
    file.unlink()
    assert store.damage("t") == ["data.txt"]


def test_a_crash_is_tried_again_and_a_divergence_is_a_result(tmp_path: Path) -> None:
    assert not manifest("failed", cause="RuntimeError").is_final
    assert manifest("failed", cause="DivergedError").is_final
    store = Store(tmp_path)
    finish(store, status="failed", cause="RuntimeError", error="x")
    finish(store)
    found = store.manifest("t")
    assert found is not None
    assert found.status == "done"


STOPPED = {"step": 30, "kl": 20.0, "se": 1.5, "limit": 16.0, "steps": 120, "seconds": 3.0}


def test_a_stopped_trial_is_final_for_the_limits_that_would_stop_it_again(tmp_path: Path) -> None:
    stopped = manifest("stopped", stopped=STOPPED, error="KL 20")
    assert not stopped.is_final
    assert not stopped.is_final_for(None), "without a limit it is to be done"
    assert stopped.is_final_for(16.9)
    assert not stopped.is_final_for(17.1), "20 - 2 x 1.5 is not above it"
    assert stopped.is_final_for(2.0)
    for done in (manifest(), manifest("failed", cause="DivergedError")):
        assert done.is_final_for(None)
        assert done.is_final_for(16.0)
    assert not manifest("failed", cause="RuntimeError").is_final_for(16.0)
    store = Store(tmp_path)
    finish(store, status="stopped", stopped=STOPPED)
    assert store.manifest("t") == replace(stopped, error=None, artefacts=ANY)
    finish(store)
    found = store.manifest("t")
    assert found is not None
    assert (found.status, found.stopped) == ("done", None)


def test_of_neighbors_only_finished_trials_are_taken_over(tmp_path: Path) -> None:
    finish(Store(tmp_path / "first"), status="stopped", stopped=STOPPED)
    second = Store(tmp_path / "second")
    assert not second.reuse("t")
    finish(second)
    first = Store(tmp_path / "first")
    assert first.reuse("t"), "in place of the stopped one"
    found = first.manifest("t")
    assert found is not None
    assert found.status == "done"


def test_a_manifest_from_before_trials_had_values_of_their_own_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store)
    file = store.trial_folder("t") / "manifest.json"
    older = json.loads(file.read_text())
    del older["training"], older["stopped"], older["digest"]
    file.write_text(json.dumps(older))
    found = store.manifest("t")
    assert found is not None
    assert (found.training, found.stopped) == (None, None)


def test_half_a_manifest_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store)
    (store.trial_folder("t") / "manifest.json").write_text('{"trial": "t", "sta')
    assert store.manifest("t") is None
    finish(store)
    assert store.manifest("t") is not None


def test_a_neighbors_trial_is_taken_over(tmp_path: Path) -> None:
    finish(Store(tmp_path / "first"))
    second = Store(tmp_path / "second")
    assert second.reuse("t")
    assert (second.trial_folder("t") / "data.txt").read_text() == "result"
    assert second.damage("t") == []
    assert not Store(tmp_path / "third").reuse("other")


def test_a_damaged_or_failed_neighbor_is_left_alone(tmp_path: Path) -> None:
    first = Store(tmp_path / "first")
    finish(first)
    (first.trial_folder("t") / "data.txt").write_text("damaged")
    finish(Store(tmp_path / "second"), status="failed", cause="DivergedError")
    assert not Store(tmp_path / "third").reuse("t")


def test_a_trial_that_is_there_is_not_taken_over(tmp_path: Path) -> None:
    finish(Store(tmp_path / "first"))
    second = Store(tmp_path / "second")
    finish(second, status="failed", cause="DivergedError")
    assert not second.reuse("t")
    found = second.manifest("t")
    assert found is not None
    assert found.status == "failed"


def test_the_reference_comes_along_with_what_is_true_of_it(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    for store in (first, second):
        with store.locked():
            store.open({**RECORD, "command": store.folder.name})
    (first.reference_folder / "deep").mkdir(parents=True)
    (first.reference_folder / "deep" / "samples.txt").write_text("theirs")
    first.add_to_record({"data": {"training_pairs": 3}, "notes": ["n"], "computing": {"b": "c"}})
    finish(first)
    assert second.reuse("t")
    assert (second.reference_folder / "deep" / "samples.txt").read_text() == "theirs"
    assert second.read_experiment() == {
        **RECORD,
        "command": "second",
        "data": {"training_pairs": 3},
        "notes": ["n"],
        "computing": {"b": "c"},
    }


def test_a_reference_that_is_there_stays(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    for store, text in ((first, "theirs"), (second, "ours")):
        store.reference_folder.mkdir(parents=True)
        (store.reference_folder / "samples.txt").write_text(text)
    finish(first)
    assert second.reuse("t")
    assert (second.reference_folder / "samples.txt").read_text() == "ours"


def test_files_are_shared_and_copied_where_they_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_text("text")
    link_files(source, tmp_path / "linked")
    assert (tmp_path / "linked" / "deep" / "file").samefile(source / "deep" / "file")

    def no_links(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    link_files(source, tmp_path / "copied")
    copied = tmp_path / "copied" / "deep" / "file"
    assert copied.read_text() == "text"
    assert not copied.samefile(source / "deep" / "file")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(DamagedError, match=r"experiment\.json is missing or damaged"):
        Store(tmp_path).read_experiment()


def test_a_damaged_record_is_restored_from_its_copy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.open(RECORD)
    store.add_to_record({"data": {"training_pairs": 3}})
    file = tmp_path / "experiment.json"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"steps": 5', b'"steps": 7'))
    assert store.read_experiment() == {**RECORD, "data": {"training_pairs": 3}}
    assert "experiment.json is damaged: its copy is taken" in caplog.text
    store.open(RECORD)
    assert file.read_bytes() == whole
    (tmp_path / "experiment.copy.json").write_bytes(b"")
    assert store.read_experiment() == {**RECORD, "data": {"training_pairs": 3}}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b is 2 there and 3 here"),
        ({"a": {"x": {"y": 1}}}, {"a": {"x": {"y": 2}}}, r"a\.x\.y is 1 there and 2 here"),
        ({"a": 1}, {"a": 1, "b": 3}, "b is None there and 3 here"),
        ({"b": {"x": 1}, "a": 1}, {"b": {"x": 2}, "a": 2}, "a is 1 there and 2 here"),
        ({"a": {"x": 1}}, {"a": None}, r"a is \{'x': 1\} there and None here"),
    ],
)
def test_the_first_condition_that_differs_is_named(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any], said: str
) -> None:
    store = Store(tmp_path)
    store.open({"conditions": old})
    with pytest.raises(ConfigurationError, match=f"another experiment: {said}; give another"):
        store.open({"conditions": new})


def test_the_same_experiment_may_grow(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open(RECORD)
    store.add_to_record({"data": {"training_pairs": 3}})
    store.open({**RECORD, "trials": ["t", "u"]})
    record = store.read_experiment()
    assert record is not None
    assert record["trials"] == ["t", "u"]
    assert record["data"] == {"training_pairs": 3}


def test_a_comparison_that_is_stated_later_is_no_plan(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def record(baseline: str) -> dict[str, object]:
        return {**RECORD, "experiment": {"comparison": {"baseline": baseline}}}

    store.open(record("dpo"))
    store.open(record("ipo"))
    found = store.read_experiment()
    assert found is not None
    assert found["plan"] == {"baseline": "dpo"}
    assert found["experiment"]["comparison"] == {"baseline": "ipo"}


def test_another_experiments_folder_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open(RECORD)
    other = json.loads(json.dumps(RECORD))
    other["conditions"]["training"]["precision"] = "bf16"
    with pytest.raises(ConfigurationError, match=r"training\.precision is None there"):
        store.open(other)
    assert store.read_experiment() == RECORD


def test_what_a_trial_may_have_of_its_own_may_change(tmp_path: Path) -> None:
    """A learning rate that becomes a list may begin with another value."""
    store = Store(tmp_path)
    store.open(RECORD)
    other = json.loads(json.dumps(RECORD))
    other["conditions"]["training"]["steps"] = 6
    store.open(other)
    found = store.read_experiment()
    assert found is not None
    assert found["conditions"]["training"]["steps"] == 6


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    said = r"not a sweep's folder \(it holds thesis\.tex\)"
    with pytest.raises(ConfigurationError, match=said), Store(tmp_path).locked():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_is_refused_is_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with pytest.raises(ZeroDivisionError), Store(folder).locked():
        _ = 1 / 0
    assert not folder.exists()
    store = Store(folder)
    store.open(RECORD)
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    other = {"conditions": {"training": {}, "content": {"policy": "q"}}}
    with pytest.raises(ConfigurationError), Store(folder).locked():
        Store(folder).open(other)
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before
    with store.locked():
        store.open(RECORD)
    assert (folder / ".lock").exists()


@pytest.mark.parametrize("name", ["trials", "reference", "checkpoints", "figures"])
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, name: str) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "sweep"
    elsewhere.mkdir()
    Store(folder).open(RECORD)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(ConfigurationError, match=f"{name} is a link"), Store(folder).locked():
        pass
    assert list(elsewhere.iterdir()) == []


def test_a_trial_that_is_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    finish(Store(tmp_path / "first"))
    store = Store(tmp_path / "second")
    store.trial_folder("t").parent.mkdir(parents=True)
    store.trial_folder("t").symlink_to(tmp_path / "first" / "trials" / "t")
    assert store.manifest("t") is None
    finish(store)
    assert not store.trial_folder("t").is_symlink()
    assert Store(tmp_path / "first").manifest("t") is not None


def test_a_link_to_itself_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(EnvironmentProblem, match="cannot write"), Store(tmp_path / "loop").locked():
        pass


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "sweep")
    store.open(RECORD)
    finish(store)
    left = [
        *("trials/.t.k3_xd81a/policy/model.safetensors", ".results.parquet.0a1b2c3d"),
        *("checkpoints/t.state/.step-000000003.abcdefgh/state/x", ".reference.12345678/a"),
        *("figures/.frontier.svg.a_b_c_d_", ".experiment.json.q1w2e3r4"),
    ]
    stays = [".settings.personal", "figures/mine.svg", "checkpoints/t.state/step-000000002/state/x"]
    for name in (*left, *stays):
        (store.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (store.folder / name).write_text("half")
    with store.locked():
        found = {path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*")}
    assert found >= {*stays, "trials/t/manifest.json"}
    assert not [name for name in left if name.split("/")[0] in found and name in found]
    assert not [name for name in found if ".abcdefgh" in name or ".k3_xd81a" in name]


def test_what_somebody_is_writing_stays(tmp_path: Path) -> None:
    """A report is written while a sweep begins; an orphaned worker finishes its trial."""
    store = Store(tmp_path / "sweep")
    store.open(RECORD)
    with store.new_trial("t") as folder:
        (folder / "data.txt").write_text("result")
        with store.locked():
            assert folder.is_dir()
        write_manifest(folder, manifest())
    assert store.manifest("t") is not None


def test_a_second_process_is_locked_out_until_the_first_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dpo_bench.sweep.store import Store\n"
        "with Store(Path(sys.argv[1])).locked():\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match="in use by another process"), Store(tmp_path).locked():
        pass
    assert Store(tmp_path).is_held()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not Store(tmp_path).is_held()
    with Store(tmp_path).locked():
        assert (tmp_path / ".lock").exists()


def test_folders_above_are_made(tmp_path: Path) -> None:
    with Store(tmp_path / "runs" / "mine").locked():
        assert (tmp_path / "runs" / "mine" / ".lock").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "sweep"
    with pytest.raises(EnvironmentProblem, match="cannot write"), Store(target).locked():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentProblem, match="cannot write"), Store(tmp_path / "x").locked():
        pass
