"""Nearest names, for messages about names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'beta'?)"`` for a near miss, else an empty string.

    >>> nearest("bata", ["beta", "alpha"])
    " (did you mean 'beta'?)"
    >>> nearest("zzz", ["beta", "alpha"])
    ''
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
