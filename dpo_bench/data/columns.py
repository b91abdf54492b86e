"""Columns that the options name and the data lacks: what it looks like, and what helps."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_bench.contract.suggestions import nearest
from dpo_bench.data.prompts import likely_prompts
from dpo_bench.data.rows import Rows
from dpo_bench.data.shapes import SHAPES
from dpo_bench.errors import DataError

COLUMNS_IN_A_MESSAGE = 20

RESPONSES = (
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("chosen_text", "rejected_text"),
    ("response_j", "response_k"),
    ("accepted", "rejected"),
    ("preferred", "dispreferred"),
    ("winner", "loser"),
    ("good", "bad"),
    ("positive", "negative"),
    ("y_w", "y_l"),
)
"""Names, in small letters, of preferred and other response in data sets that are pairs."""

FINE_TUNING = "It looks like data for fine-tuning: {}. A pair needs two responses to one prompt."
NO_PAIRS = (
    (
        {"completion", "label"},
        (
            "It looks like unpaired data (as for KTO): single completions, each good or bad. A "
            "pair needs two responses to one prompt, and no key can make them."
        ),
    ),
    ({"prompt", "completion"}, FINE_TUNING.format("one completion to each prompt")),
    ({"instruction", "output"}, FINE_TUNING.format("one output to each instruction")),
    ({"messages"}, FINE_TUNING.format("whole conversations")),
    ({"conversations"}, FINE_TUNING.format("whole conversations")),
    ({"text"}, "It looks like plain text. A pair needs two responses to one prompt."),
)
"""Columns by which data without pairs is known, and what is said about it."""

NO_RESPONSE = frozenset(
    {"id", "prompt", "prompt_id", "source", "system", "tools", "label", "score"}
)


def require_column(source: str, columns: Sequence[str], key: str, column: str) -> None:
    """Raise DataError where a column that the options name does not exist."""
    if column not in columns:
        raise DataError(
            f"{source}: no column {column!r}{nearest(column, columns)}; {_listed(columns)}. "
            f"Name the right one as data.{key}."
        )


def require_responses(rows: Rows, chosen: str, rejected: str) -> None:
    """Raise DataError where a response's column does not exist, with what would help, if anything.

    A key is named only where there is a column for it.
    """
    columns = rows.columns
    missing = [name for name in (chosen, rejected) if name not in columns]
    if not missing:
        return
    raise DataError(
        f"{rows.source}: no column {missing[0]!r}{nearest(missing[0], columns)}; "
        f"{_listed(columns)}. {_help(rows, chosen, rejected, missing)}"
    )


def _help(rows: Rows, chosen: str, rejected: str, missing: Sequence[str]) -> str:
    small = {name.lower(): name for name in reversed(rows.columns)}
    for first, second in ((chosen.lower(), rejected.lower()), *RESPONSES):
        if first in small and second in small:
            names = (small[first], small[second])
            return f'Set data.chosen_column = "{names[0]}" and data.rejected_column = "{names[1]}".'
    shape = next((shape for shape in SHAPES if shape.columns <= set(rows.columns)), None)
    if shape is not None:
        return f'It looks like {shape.description.partition(":")[0]}: set data.shape = "auto".'
    if len(_possible_responses(rows, {chosen, rejected})) < len(missing):
        none = "There are no two responses to a prompt here, and no key can make them."
        return next((what for known, what in NO_PAIRS if known <= small.keys()), none)
    keys = {chosen: "chosen_column", rejected: "rejected_column"}
    if len(missing) == 1:
        return f"Name the right one as data.{keys[missing[0]]}."
    return "Name the right ones as data.chosen_column and data.rejected_column."


def _possible_responses(rows: Rows, taken: set[str]) -> list[str]:
    """Columns with texts or messages that are named like nothing else."""
    others = taken | set(likely_prompts(rows.columns))
    return [
        name
        for name in rows.columns
        if name not in others
        and name.lower() not in NO_RESPONSE
        and any(isinstance(row.get(name), (str, list, dict)) for row in rows.records)
    ]


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in columns[:COLUMNS_IN_A_MESSAGE])
    return f"its columns: {shown}{', ...' if len(columns) > COLUMNS_IN_A_MESSAGE else ''}"
