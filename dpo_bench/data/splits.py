"""Names of splits: which one is meant, and which one of them holds the held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import DataError

TRAIN, HELDOUT = "train", "heldout"
"""A split named ``heldout`` holds the held-out pairs unless the configuration names another."""

PREFERENCES = ("prefs", "preferences", "preference", "dpo", "pairs")
"""What a training split is called that is one of several and holds the preferences."""

OTHER_STAGES = ("test", "val", "eval", "dev", HELDOUT)


def find_split(label: str, split: str, known: Sequence[str]) -> str:
    """The split that is meant: the one of that name, or for ``train`` the one that can only be it.

    That is the only one whose name begins so (``train_prefs``), or the only one of those that is
    named after preferences, or the only split at all, unless it is named as a test.

    Args:
        label: how messages call the source.
        split: the name asked for.
        known: names of the splits that there are.

    Raises:
        DataError: there is none, or several could be meant.
    """
    if split in known:
        return split
    if split == TRAIN:
        alike = [name for name in known if _suffix(name, TRAIN)]
        named = [name for name in alike if _suffix(name, TRAIN) in PREFERENCES]
        only = (
            [name for name in known if not name.startswith(OTHER_STAGES)] if len(known) == 1 else []
        )
        for candidates in (alike, named, only):
            if len(candidates) == 1:
                return candidates[0]
    raise no_such_split(label, split, known)


def matching_heldout(split: str, known: Sequence[str]) -> str | None:
    """The split that holds the held-out pairs of ``train_prefs``: ``test_prefs``, if there is one.

    None for a plain ``train``: a test set that everybody reports on is no one's to tune on.
    """
    suffix = _suffix(split, TRAIN)
    name = f"test{split[len(TRAIN) :]}"
    return name if suffix and name in known else None


def no_such_split(label: str, split: str, known: Sequence[str]) -> DataError:
    """The error for a split that does not exist."""
    names = ", ".join(known) or "none"
    return DataError(f"{label} has no split {split!r}{nearest(split, known)}; its splits: {names}.")


def _suffix(name: str, beginning: str) -> str:
    """What follows a name's beginning and a mark: ``prefs`` of ``train_prefs``; else nothing."""
    rest = name.removeprefix(beginning)
    return rest[1:] if rest != name and rest[:1] in {"_", "-", "."} else ""
