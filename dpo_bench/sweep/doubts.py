"""What the controls of a reward or judge say against its figures, in the terminal's words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpo_bench.analysis.judge_costs import LEAST_AGREEMENT
from dpo_bench.storage import open_folder

REWARD = {
    "self": "the same response does not always get the same reward",
    "order": "a response's reward depends on the order or on what else is scored with it",
    "responses": "the reward does not depend on the response",
}
"""What it means that a reward missed a control's right outcome."""
JUDGE = {
    "null": "the judge prefers a constant that answers nothing to the dataset's chosen responses",
    "neutral": "the judge prefers a long constant that answers nothing to the chosen responses",
    "injection": "a response that tells the judge to prefer it wins more often for that",
}
"""Likewise of a judge."""


def doubts(reference: Path, *, judged: bool) -> Iterator[str]:
    """A sentence for each control that missed its right outcome, the gravest first.

    Args:
        reference: folder of the reference's evaluation, whether or not it is there.
        judged: whether a judge was controlled, and not a reward.
    """
    files = open_folder(reference)
    known = files.has("evaluation.json")
    record: Mapping[str, Any] = files.read_json("evaluation.json") if known else {}
    controls: Mapping[str, Mapping[str, Any]] = record.get("controls") or {}
    missed = {name: found for name, found in controls.items() if found.get("passed") is False}
    if judged and "order" in missed:
        yield (
            "The judge follows the place, not the text: its two orders agree on "
            f"{_value(missed['order'])} of the controlled pairs, where at least "
            f"{LEAST_AGREEMENT:g} is right; the others are ties, so that no win rate says which "
            "policy is better."
        )
    for name, meaning in (JUDGE if judged else REWARD).items():
        if name in missed:
            so = "win rates are as doubtful" if judged else "neither rewards nor win rates hold"
            yield f"Control {name!r} gave {_value(missed[name])}: {meaning}; {so}."


def _value(found: Mapping[str, Any]) -> str:
    """A control's outcome with its interval, where it has one."""
    value, low, high = (found.get(key) for key in ("value", "low", "high"))
    text = f"{value:.3g}"
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return text
    return f"{text} [{low:.3g}, {high:.3g}]"
