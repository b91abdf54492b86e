"""Reading a sweep's JSON files; what cannot be read is an error that names it and a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpo_bench.errors import EnvironmentProblem


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        EnvironmentProblem: it is missing, damaged or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(value, dict):
        raise _damaged(path, TypeError("not an object"))
    return value


def _damaged(path: Path, error: Exception) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{path} cannot be read ({type(error).__name__}): check the sweep's files with"
        " `dpo-bench status FOLDER --verify`, then run the sweep again."
    )
