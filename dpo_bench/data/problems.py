"""What can be wrong with a single row: it stops the program, or the row is left out and counted."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from dpo_bench.errors import DataError

ALTERNATIVE = ' Mend it, or set data.invalid = "drop" to leave out such rows.'


class Reason(StrEnum):
    """Why a row is left out; the words under which it is counted."""

    MISSING = "missing value"
    TYPE = "wrong type"
    PROMPT = "no prompt"
    MESSAGES = "malformed messages"
    SURROGATE = "unpaired surrogate"
    EMPTY = "empty response"
    IDENTICAL = "identical pair"
    TIE = "tie"
    ALONE = "fewer than two responses"
    TEMPLATE = "template does not fit"
    NO_TOKENS = "no tokens"
    END_INSIDE = "end token inside a response"
    PROMPT_LIMIT = "prompt over the limit"
    RESPONSE_LIMIT = "response over the limit"
    CUT_IDENTICAL = "identical after truncation"


class RowProblem(Exception):  # noqa: N818 - it may be no error: the row may be left out
    """A row that cannot be used.

    Attributes:
        reason: what it is counted as.
        detail: what is wrong, without the place.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


OVER_LIMIT = frozenset({Reason.PROMPT_LIMIT, Reason.RESPONSE_LIMIT})
"""Reasons that ``data.over_limit`` decides about, not ``data.invalid``."""

NO_PREFERENCE = frozenset({Reason.TIE, Reason.ALONE})
"""Reasons that are no mistake of a row: it says that no response is preferred. Always left out."""


def stopping_error(place: object, problem: RowProblem) -> DataError:
    """The error for a row that is not to be left out: where, what, and what to do."""
    hint = "" if problem.reason in OVER_LIMIT else ALTERNATIVE
    return DataError(f"{place}: {problem.detail}.{hint}")


def require_some(left: int, dropped: Mapping[str, int], source: str) -> None:
    """Raise DataError when no pair is left, with the count of every reason."""
    if not left:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
        raise DataError(f"{source}: no usable pair is left ({counts}).")
