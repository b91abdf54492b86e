"""The results table: tidy, a row per trial that has ended, also those that failed or were stopped.

It is made from the manifests alone, so that it can be made at any moment: while a sweep runs, after
it was interrupted, after it was killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.analysis.judge_costs import JUDGE_COSTS
from dpo_bench.analysis.lost_verdicts import LOST_COLUMNS, lost_columns
from dpo_bench.analysis.metrics import METRICS
from dpo_bench.errors import ConfigurationError, DamagedError, DpoBenchError, StorageError
from dpo_bench.experiment.config import OWN_KEYS
from dpo_bench.storage import Sealed, canonical_json, damaged, write_csv, write_parquet
from dpo_bench.sweep.display import Display
from dpo_bench.sweep.store import Manifest, Store
from dpo_bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("self", "null", "neutral", "injection", "order", "place", "responses")
"""Of the reward or judge, the same for all trials; see `rewards.sanity_checks`."""
TEXT = ("trial", "loss", "hyperparameters", "status", "error", "degenerate_reasons", "training")
COUNTS = ("seed", "steps", "prompts", "reward_truncated", "checkpoints")
PUBLIC = (
    *("trial", "loss", "beta", "hyperparameters", "seed", "status", "steps"),
    *("train_seconds", "evaluation_seconds"),
    *(f"{name}{end}" for name in ("reward", "win_rate", "kl") for end in ("", "_low", "_high")),
    *("preference_accuracy", "margin", "chosen_logratio", "rejected_logratio"),
    *("response_tokens", "frontier_gap"),
)
"""What stands first, in this order, in every version."""
COLUMNS = tuple(
    dict.fromkeys(
        (
            *PUBLIC,
            *(f"{metric.name}{end}" for metric in METRICS for end in ("", "_low", "_high")),
            *("initial_loss", "initial_loss_expected", "prompts", "error", "degenerate_reasons"),
            "reward_truncated",
            *(f"judge_{name}" for name in JUDGE_COSTS),
            *(f"control_{name}" for name in CONTROLS),
            *("checkpoints", "checkpoint_seconds", "judge_own_temperature"),
            *LOST_COLUMNS,
            *("training", "learning_rate"),
        )
    )
)


def write_results(store: Store, identities: Sequence[str]) -> pd.DataFrame:
    """Collect the trials of a plan that have ended: ``results.parquet`` and ``results.csv``."""
    table = _table(store, identities)
    _write(store, table)
    return table


def planned_trials(store: Store) -> list[str]:
    """Identities of the trials that a sweep has asked for so far; [] for no sweep's folder."""
    record = store.read_experiment() or {}
    if dict(record.get("experiment") or {}).get("search"):
        with contextlib.suppress(FileNotFoundError):
            return [str(one) for one in store.read_search()["trials"]]
    return [str(one) for one in record.get("trials") or ()]


def refresh_results(folder: Path) -> None:
    """Bring a sweep's table up to date, whether or not the sweep is running.

    The table is left as it is in a folder that was copied without its trials' own folders, and in
    one that cannot be written.

    Raises:
        ConfigurationError: no trial of the sweep has ended.
        DamagedError: a trial is damaged, or the table is and cannot be made again.
        StorageError: there is no table, and it cannot be written.
    """
    store = Store(folder)
    identities = planned_trials(store)
    earlier = _earlier_table(store)
    if earlier is not None and any(store.manifest(one) is None for one in earlier["trial"]):
        return
    try:
        table = _table(store, identities)
        if earlier is None and table.empty and store.results_file.is_file():
            raise damaged(store.results_file)
        if earlier is None and table.empty:
            raise ConfigurationError(
                f"{folder}: none of {counted(len(identities), 'trial')} has ended yet; there is"
                " nothing to report."
            )
        if earlier is None or not table.equals(earlier):
            _write(store, table)
    except StorageError:
        if earlier is None:
            raise


@contextlib.contextmanager
def reported_when_interrupted(
    store: Store,
    identities: Callable[[], Sequence[str]],
    display: Display,
    write_report: Callable[[Path], Path],
) -> Iterator[None]:
    """At Ctrl-C write table and report of what is done before the interruption goes on its way.

    A second Ctrl-C, while running trials are saved or while this is written, ends at once.

    Args:
        store: the sweep's folder.
        identities: gives the trials that it has asked for.
        display: is told.
        write_report: writes the report of a folder.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        # One that came while another was handled is the second.
        if not isinstance(interrupt.__context__, KeyboardInterrupt):
            _report_what_is_done(store, identities(), display, write_report)
        raise


def _report_what_is_done(
    store: Store,
    identities: Sequence[str],
    display: Display,
    write_report: Callable[[Path], Path],
) -> None:
    try:
        table = write_results(store, identities)
        if done := int((table["status"] == "done").sum()):
            display.note(f"reporting {counted(done, 'trial')} (Ctrl-C again: at once)")
            display.note(f"report so far: {write_report(store.folder)}")
    except (DpoBenchError, OSError) as error:  # the interruption is what is to be told
        display.note(f"no report of what is done: {error}", warning=True)


def _earlier_table(store: Store) -> pd.DataFrame | None:
    """The table as it was written; None where there is none that is whole."""
    with contextlib.suppress(DamagedError):
        return store.ledger.read_parquet(store.results_file.name)
    return None


def _write(store: Store, table: pd.DataFrame) -> None:
    with store.ledger.writing(["results.parquet", "results.csv"]):
        write_parquet(store.results_file, table)
        write_csv(store.folder / "results.csv", table)


def _table(store: Store, identities: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    shared = dict(dict((store.read_experiment() or {}).get("experiment") or {}).get("training", {}))
    rows = [
        _row(store, manifest) | _training(manifest, shared)
        for identity in identities
        if (manifest := store.manifest(identity)) is not None
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(COLUMNS, "float64")
    kinds |= dict.fromkeys(TEXT, "str") | dict.fromkeys(COUNTS, "Int64")
    return table.astype(kinds)


def _training(manifest: Manifest, shared: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial trained with; older manifests do not say it, because all had the sweep's."""
    values = manifest.training
    if values is None:
        values = {key: shared[key] for key in OWN_KEYS if key in shared}
    rate = values.get("learning_rate")
    return {
        "training": canonical_json(dict(values)),
        "learning_rate": rate if isinstance(rate, int | float) else None,
    }


def _row(store: Store, manifest: Manifest) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": manifest.trial,
        "loss": manifest.loss,
        "beta": manifest.beta,
        "hyperparameters": canonical_json(dict(manifest.hyperparameters)),
        "seed": manifest.seed,
        "status": manifest.status,
        "train_seconds": manifest.seconds.get("training"),
        "evaluation_seconds": manifest.seconds.get("evaluation"),
        "error": manifest.error,
    }
    if manifest.status != "done":
        return row
    files = store.sealed_trial(manifest.trial)
    evaluation = files.read_json("evaluation.json")
    for name in ("initial_loss", "initial_loss_expected", "steps"):
        row[name] = evaluation[name]
    for name, estimate in evaluation["metrics"].items():
        row |= {
            name: estimate["value"],
            f"{name}_low": estimate["low"],
            f"{name}_high": estimate["high"],
        }
    row["prompts"] = evaluation["metrics"]["kl"]["n"]
    return row | _notes(evaluation.get("notes") or {}) | _controls(store) | _along(files, manifest)


def _notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What is no figure with an interval."""
    judge = notes.get("judge") or {}
    return {
        **lost_columns(notes.get("lost_verdicts") or {}),
        "degenerate_reasons": ", ".join(notes.get("degenerate") or ()),
        "reward_truncated": notes.get("reward_truncated"),
        **{f"judge_{name}": judge.get(name) for name in (*JUDGE_COSTS, "own_temperature")},
    }


def _controls(store: Store) -> dict[str, Any]:
    files = store.reference()
    if not files.has("evaluation.json"):
        return {}
    controls = files.read_json("evaluation.json").get("controls") or {}
    return {f"control_{name}": found["value"] for name, found in controls.items()}


def _along(files: Sealed, manifest: Manifest) -> dict[str, Any]:
    if not files.has("checkpoints.parquet"):
        return {}
    return {
        "checkpoints": len(files.read_parquet("checkpoints.parquet")),
        "checkpoint_seconds": manifest.seconds.get("checkpoints"),
    }
