"""Making a folder that a test has changed count as one that was written like this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpo_bench.ledger import Ledger, write_twice
from dpo_bench.storage import DIGEST, MANIFEST, seal, write_record


def as_written(folder: Path) -> Path:
    """Give everything in a sweep's folder the digests of what it now is; returns the folder."""
    record = folder / "experiment.json"
    if record.is_file():
        write_twice(record, _without_digest(record))
    if (folder / "search.json").is_file():
        write_record(folder / "search.json", _without_digest(folder / "search.json"))
    for trial in folder.glob("trials/*/"):
        seal(trial, _without_digest(trial / MANIFEST))
    if (folder / "reference").is_dir():
        seal(folder / "reference")
    ledger = Ledger(folder)
    if ledger.is_there:
        with ledger.writing(ledger.digests()):
            pass
    return folder


def as_older(folder: Path) -> Path:
    """Take away every digest that older versions did not write."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / "reference" / MANIFEST).unlink(missing_ok=True)
    (folder / "experiment.copy.json").unlink(missing_ok=True)
    records = [folder / "experiment.json", folder / "search.json"]
    for file in (*records, *folder.glob(f"trials/*/{MANIFEST}")):
        if file.is_file():
            file.write_text(json.dumps(_without_digest(file), indent=2, sort_keys=True))
    return folder


def _without_digest(file: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return {key: one for key, one in value.items() if key != DIGEST}
