"""The results table."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from dpo_bench.errors import ConfigurationError, DataError, StorageError
from dpo_bench.experiment import Experiment
from dpo_bench.storage import read_parquet, write_json
from dpo_bench.sweep.display import PlainDisplay
from dpo_bench.sweep.doubts import doubts
from dpo_bench.sweep.results import (
    COLUMNS,
    planned_trials,
    refresh_results,
    reported_when_interrupted,
    write_results,
)
from dpo_bench.sweep.run import SweepOutcome
from dpo_bench.sweep.store import Manifest, Store, write_manifest
from dpo_bench.sweep.summary import print_outcome

FIXED = [
    "trial",
    "loss",
    "beta",
    "hyperparameters",
    "seed",
    "status",
    "steps",
    "train_seconds",
    "evaluation_seconds",
    "reward",
    "reward_low",
    "reward_high",
    "win_rate",
    "win_rate_low",
    "win_rate_high",
    "kl",
    "kl_low",
    "kl_high",
    "preference_accuracy",
    "margin",
    "chosen_logratio",
    "rejected_logratio",
    "response_tokens",
    "frontier_gap",
]


def fill(store: Store) -> None:
    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 1, "high": value + 1, "n": 7}

    with store.new_trial("good") as folder:
        write_json(
            folder / "evaluation.json",
            {
                "metrics": {"kl": estimate(2.5), "margin": estimate(0.5)},
                "initial_loss": 0.69,
                "initial_loss_expected": 0.69,
                "steps": 5,
            },
        )
        write_manifest(
            folder,
            Manifest("good", "done", "dpo", "beta", 0.1, {"beta": 0.1}, 0, {"training": 1.5}),
        )
    with store.new_trial("bad") as folder:
        error = "=cmd|' /C calc'!A0"
        write_manifest(folder, Manifest("bad", "failed", "sft", None, None, {}, 1, error=error))


def stop(store: Store) -> None:
    """A trial that was stopped early."""
    stopped = {"step": 30, "kl": 20.0, "se": 1.0, "limit": 16.0, "steps": 120, "seconds": 3.0}
    with store.new_trial("far") as folder:
        values: dict[str, Any] = {"error": "KL 20", "stopped": stopped}
        values["training"] = {"learning_rate": 0.25, "steps": 120, "optimizer": "adamw"}
        write_manifest(folder, Manifest("far", "stopped", "dpo", "beta", 0.01, {}, 2, **values))


def record(store: Store, *trials: str, **experiment: Any) -> None:
    """What a sweep was asked for."""
    store.open({"conditions": {}, "experiment": experiment, "trials": list(trials)})


def test_the_public_columns_come_first_and_in_order() -> None:
    assert list(COLUMNS[: len(FIXED)]) == FIXED


def test_done_and_failed_trials_are_rows_and_nothing_is_imputed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)
    table = write_results(store, ["good", "bad", "not yet"])
    good, bad = table.to_dict("records")
    assert (good["kl"], good["kl_low"], good["kl_high"]) == (2.5, 1.5, 3.5)
    assert (good["margin_low"], good["prompts"], good["steps"]) == (-0.5, 7, 5)
    assert pd.isna(good["reward"])
    assert bad["status"] == "failed"
    assert all(pd.isna(bad[name]) for name in ("beta", "kl", "reward", "steps", "train_seconds"))
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "results.parquet"), table)


def test_the_terminal_names_the_controls_that_a_reward_misses(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)

    experiment = Experiment.model_validate(
        {"name": "tiny", "policy": "p", "preferences": "d", "losses": ["dpo"]}
    )

    def first_lines(**controls: tuple[float, bool | None]) -> list[str]:
        store.reference_folder.mkdir(exist_ok=True)
        found = {
            name: {"value": value, "low": value - 0.125, "high": value, "passed": passed}
            for name, (value, passed) in controls.items()
        }
        write_json(store.reference_folder / "evaluation.json", {"controls": found})
        table = write_results(store, ["good", "bad"])
        screen = io.StringIO()
        outcome = SweepOutcome(experiment, tmp_path, tmp_path, table, 1)
        print_outcome(outcome, Console(file=screen, width=200))
        above, *_ = screen.getvalue().partition("2 trials, 1 computed now")
        return above.splitlines()

    right = {"self": (0.5, True), "null": (0.9, None), "responses": (0.03, True)}
    assert first_lines(**right) == []
    (one,) = first_lines(**{**right, "responses": (0.0, False)})
    assert one.startswith(
        "warning: Control 'responses' gave 0 [-0.125, 0]: the reward does not depend on the"
    )
    (one,) = first_lines(**right, order=(0.97, False))
    assert one.startswith("warning: Control 'order' gave 0.97 [0.845, 0.97]: a response's reward")
    assert first_lines() == []  # a sweep from before there were controls


def test_the_terminal_begins_with_what_is_wrong_with_a_judge(tmp_path: Path) -> None:
    order = {"value": 0.25, "low": 0.125, "high": 0.375, "passed": False}
    null = {"value": 0.75, "low": None, "high": None, "passed": False}  # of a single prompt
    write_json(tmp_path / "evaluation.json", {"controls": {"null": null, "order": order}})
    place, constant = doubts(tmp_path, judged=True)
    assert place.startswith(
        "The judge follows the place, not the text: its two orders agree on 0.25 [0.125, 0.375] of"
    )
    assert constant.startswith("Control 'null' gave 0.75: the judge prefers a constant")
    assert len(list(doubts(tmp_path, judged=False))) == 1  # a reward's null has no right outcome
    assert list(doubts(tmp_path / "none", judged=True)) == []


def test_answers_at_a_judges_own_temperature_are_told_at_the_end(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)
    experiment = Experiment.model_validate(
        {"name": "tiny", "policy": "p", "preferences": "d", "losses": ["dpo"]}
    )

    def told(answers: float) -> bool:
        table = write_results(store, ["good", "bad"])
        table = table.assign(judge_own_temperature=[answers, float("nan")])
        screen = io.StringIO()
        print_outcome(
            SweepOutcome(experiment, tmp_path, tmp_path, table, 0), Console(file=screen, width=200)
        )
        return f"{answers:,.0f} of the judge's answers were given at its own" in screen.getvalue()

    assert told(1234)
    assert not told(0)


def test_many_lost_verdicts_are_told_at_the_end(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)
    experiment = Experiment.model_validate(
        {"name": "tiny", "policy": "p", "preferences": "d", "losses": ["dpo"]}
    )

    def told(share: float) -> bool:
        table = write_results(store, ["good", "bad"]).assign(judge_lost_share=[share, float("nan")])
        screen = io.StringIO()
        outcome = SweepOutcome(experiment, tmp_path, tmp_path, table, 0)
        print_outcome(outcome, Console(file=screen, width=200))
        return "of 1 trial the judge gave no verdict on more than 5%" in screen.getvalue()

    assert told(0.06)
    assert not told(0.05)


def test_lost_verdicts_are_columns(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lost = {
        "reference": {"pairs": 30, "lost": 3, "prompts": 2, "dropped": 1},
        "chosen": {"pairs": 10, "lost": 1, "prompts": 1, "dropped": 1},
    }
    with store.new_trial("judged") as folder:
        metrics = {"kl": {"value": 1.0, "low": 0.5, "high": 2.0, "n": 10}}
        start = {"initial_loss": 0.69, "initial_loss_expected": 0.69, "steps": 5}
        notes = {"lost_verdicts": {"by_opponent": lost, "prompts": 3}}
        write_json(folder / "evaluation.json", {"metrics": metrics, "notes": notes, **start})
        write_manifest(folder, Manifest("judged", "done", "dpo", "beta", 0.1, {}, 0))
    (row,) = write_results(store, ["judged"]).to_dict("records")
    assert row["judge_lost_reference"] == 3
    assert row["judge_lost_chosen"] == 1
    assert row["judge_lost_share"] == 0.1
    assert row["judge_lost_prompts"] == 3
    assert row["judge_dropped_prompts"] == 1


def test_the_csv_is_safe_to_open(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)
    write_results(store, ["good", "bad"])
    text = (tmp_path / "results.csv").read_text()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert "'=cmd" in text


def test_what_a_trial_trained_with_stands_in_its_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record(store, training={"learning_rate": 0.5, "steps": 60, "seeds": [0], "optimizer": "adamw"})
    fill(store)
    stop(store)
    good, far = write_results(store, ["good", "far"]).to_dict("records")
    assert far["training"] == '{"learning_rate":0.25,"optimizer":"adamw","steps":120}'
    assert far["learning_rate"] == 0.25
    assert good["training"] == '{"learning_rate":0.5,"optimizer":"adamw","steps":60}', "the sweep's"
    assert good["learning_rate"] == 0.5
    record(store, training={"learning_rate": "auto"})
    assert pd.isna(write_results(store, ["good"])["learning_rate"][0])


def test_a_stopped_trial_has_no_figures_and_is_no_failure(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)
    stop(store)
    table = write_results(store, ["good", "far"])
    far = table.to_dict("records")[1]
    assert (far["status"], far["error"]) == ("stopped", "KL 20")
    assert all(pd.isna(far[name]) for name in ("kl", "reward", "steps"))
    experiment = Experiment.model_validate(
        {"name": "tiny", "policy": "p", "preferences": "d", "losses": ["dpo"]}
    )
    screen = io.StringIO()
    outcome = SweepOutcome(experiment, tmp_path, tmp_path, table, 2)
    assert outcome.failed == 0
    print_outcome(outcome, Console(file=screen, width=200))
    text = screen.getvalue()
    assert "stopped" in text
    assert "1 trial stopped early: no failure" in text
    assert "failed" not in text


def test_a_learning_rate_of_their_own_is_shown_of_trials(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record(store, training={"learning_rate": 0.5})
    fill(store)
    stop(store)
    experiment = Experiment.model_validate(
        {"name": "tiny", "policy": "p", "preferences": "d", "losses": ["dpo"]}
    )

    def heading(*trials: str) -> bool:
        screen = io.StringIO()
        table = write_results(store, trials)
        outcome = SweepOutcome(experiment, tmp_path, tmp_path, table, 2)
        print_outcome(outcome, Console(file=screen, width=200))
        return "learning rate" in screen.getvalue()

    assert heading("good", "far")
    assert not heading("good", "bad")


def test_a_search_says_itself_which_trials_it_has_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record(store, "a", "b")
    write_json(store.search_file, {"trials": ["c", "a", "d"]})
    assert planned_trials(store) == ["a", "b"], "left by another experiment in this folder"
    record(store, "a", search={"kl": [1.0]})
    assert planned_trials(store) == ["c", "a", "d"]
    store.search_file.unlink()
    assert planned_trials(store) == ["a"], "none has ended yet"
    assert planned_trials(Store(tmp_path / "elsewhere")) == []


def test_the_table_of_a_sweep_under_way_is_brought_up_to_date(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record(store, "good", "bad", "far", "later")
    with pytest.raises(ConfigurationError, match="none of 4 trials has ended yet"):
        refresh_results(tmp_path)
    fill(store)
    with store.locked():  # a sweep is running
        refresh_results(tmp_path)
        assert read_parquet(store.results_file)["trial"].tolist() == ["good", "bad"]
        stop(store)
        refresh_results(tmp_path)
    assert read_parquet(store.results_file)["trial"].tolist() == ["good", "bad", "far"]
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 4
    before = store.results_file.stat().st_ino
    refresh_results(tmp_path)
    assert store.results_file.stat().st_ino == before, "nothing has changed: nothing is written"


def test_a_table_is_left_alone_where_it_cannot_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    record(store, "good", "bad", "far")
    fill(store)
    write_results(store, ["good", "bad"])
    stop(store)

    def refused(*_: object) -> None:
        raise StorageError("results.parquet: Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("dpo_bench.sweep.results.write_parquet", refused)
        refresh_results(tmp_path)
        assert len(read_parquet(store.results_file)) == 2, "the folder is read-only"
        store.results_file.rename(tmp_path / "aside")
        with pytest.raises(StorageError, match="Permission denied"):
            refresh_results(tmp_path)
    (tmp_path / "aside").rename(store.results_file)
    (tmp_path / "trials").rename(tmp_path / "elsewhere")
    refresh_results(tmp_path)
    assert len(read_parquet(store.results_file)) == 2, "copied without its trials"


def interrupted(store: Store, error: BaseException, report: Callable[[Path], Path]) -> list[str]:
    """What is said when the work on a folder ends with an error."""
    lines: list[str] = []
    with (
        pytest.raises(type(error)),
        reported_when_interrupted(
            store, lambda: ["good", "bad", "later"], PlainDisplay(lines.append), report
        ),
    ):
        raise error
    return lines


def test_an_interrupted_sweep_leaves_a_report_of_what_is_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked: list[Path] = []

    def report(folder: Path) -> Path:
        asked.append(folder)
        assert len(read_parquet(store.results_file)) == 2
        return folder / "report.html"

    assert interrupted(store, KeyboardInterrupt(), report) == []
    assert asked == [], "no trial is done"
    fill(store)
    assert interrupted(store, DataError("x"), report) == []
    first, second = interrupted(store, KeyboardInterrupt(), report)
    assert first == "reporting 1 trial (Ctrl-C again: at once)"
    assert second == f"report so far: {tmp_path / 'report.html'}"
    assert asked == [tmp_path]
    again = KeyboardInterrupt()
    again.__context__ = KeyboardInterrupt()  # the second, while the first was handled
    assert interrupted(store, again, report) == []
    assert asked == [tmp_path]


def test_a_report_that_fails_does_not_hide_the_interruption(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)

    def report(folder: Path) -> Path:
        raise StorageError("the disk is full")

    lines = interrupted(store, KeyboardInterrupt(), report)
    assert lines[-1] == "warning: no report of what is done: the disk is full"


def test_the_cause_of_a_failure_is_told_in_full_in_a_narrow_terminal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)
    table = write_results(store, ["good", "bad"])
    table.loc[1, "error"] = "ValueError: a cause that no column of ten characters holds [red]"
    experiment = Experiment.model_validate(
        {"name": "tiny", "policy": "p", "preferences": "d", "losses": ["dpo"]}
    )
    screen = io.StringIO()
    outcome = SweepOutcome(experiment, tmp_path, tmp_path, table, 2)
    print_outcome(outcome, Console(file=screen, width=60))
    assert outcome.failed == 1
    (line,) = [one for one in screen.getvalue().splitlines() if one.startswith("failed: ")]
    assert line.endswith(str(table.loc[1, "error"]))
