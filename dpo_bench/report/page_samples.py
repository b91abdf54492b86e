"""The responses that travel inside the page, compressed, and the rule that limits them.

Every held-out prompt with the dataset's chosen response, the reference's first response and the
first response of every finished trial, as long as that fits; otherwise fewer prompts, evenly spaced
in their order and never chosen by content, and shorter texts. `LADDER` is tried from the top and
the first step whose compressed size is within `LIMIT` is taken, so that the page stays below its
6 MB whatever the sweep's size.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpo_bench.analysis.estimate import finite
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.report.samples import evenly_spaced, first_by_prompt
from dpo_bench.wording import clipped, rounded, visible

ALL_PROMPTS = 1 << 30
LADDER = (
    (ALL_PROMPTS, 4000),
    (512, 2000),
    (256, 2000),
    (128, 1500),
    (64, 1200),
    (50, 1000),
    (32, 800),
    (16, 600),
    (8, 400),
    (2, 300),
    (1, 200),
)
"""numbers of prompts and of characters per text"""
LIMIT = 2_500_000
"""bytes that the compressed responses may take in the page"""
_COLUMNS = (("reward", 3), ("tokens", 6), ("win_reference", 3), ("kl", 3))
"""figures of a response that travel with it, and their digits"""
_VERDICTS = (("win_chosen", 3), ("judge_agreed", 3))
"""further figures of a response that was judged, and their digits"""
_RAW_LIMIT = 24_000_000
"""characters above which a step is not even tried"""


@dataclass(frozen=True, slots=True)
class EmbeddedSamples:
    """What the page carries.

    Attributes:
        encoded: JSON, deflated, base64.
        prompts: how many held-out prompts.
        total: of how many.
        responses: how many responses of policies.
        limit: characters after which a text was cut.
        cut: whether any was.
    """

    encoded: str
    prompts: int
    total: int
    responses: int
    limit: int
    cut: bool


def embedded_samples(
    results: SweepResults, series: Sequence[LossCurve], ladder: Sequence[tuple[int, int]] = LADDER
) -> EmbeddedSamples | None:
    """The first step of the ladder that fits; None where there are no responses to show."""
    if not results.has_responses:
        return None
    done = [(place, trial) for place, trial in enumerate(_ordered(series)) if trial.done]
    prompts = results.reference.prompts
    tables = [first_by_prompt(trial.samples) for _, trial in done]
    reference = first_by_prompt(results.reference.samples)
    typical = max(float(table["response"].str.len().mean()) for table in tables)
    for step, (count, limit) in enumerate(ladder):
        kept = min(count, len(prompts))
        last = step == len(ladder) - 1
        if not last and kept * len(done) * min(typical, limit) > _RAW_LIMIT:
            continue
        rows = evenly_spaced(prompts, kept)
        content = _content(rows, reference, list(zip(done, tables, strict=True)), limit)
        encoded = deflated(content)
        if last or len(encoded) <= LIMIT:
            break
    texts = [text for policy in content["policies"] for text in policy["responses"]]
    return EmbeddedSamples(
        encoded,
        kept,
        len(prompts),
        sum(text is not None for text in texts),
        limit,
        any(text is not None and len(text) == limit for text in texts),
    )


def deflated(value: Any) -> str:
    """JSON, deflated (zlib) and in base64: what the page's script unpacks."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 9)).decode()


def _ordered(series: Sequence[LossCurve]) -> Iterator[Trial]:
    return (trial for one in series for trial in one.trials)


def _content(
    rows: pd.DataFrame,
    reference: pd.DataFrame,
    policies: Sequence[tuple[tuple[int, Trial], pd.DataFrame]],
    limit: int,
) -> dict[str, Any]:
    def text(value: Any) -> str | None:
        return None if pd.isna(value) else clipped(visible(str(value)), limit)

    keys = list(rows["prompt_id"])

    def columns(table: pd.DataFrame) -> dict[str, Any]:
        picked = table.reindex(keys)
        found: dict[str, Any] = {"responses": [text(one) for one in picked["response"]]}
        judged = "judge_agreed" in picked and picked["judge_agreed"].notna().any()
        for name, digits in (*_COLUMNS, *(_VERDICTS if judged else ())):
            if name in picked:
                found[name] = [rounded(finite(one), digits) for one in picked[name]]
        if "finished" in picked:
            found["finished"] = [one is not False and one != 0 for one in picked["finished"]]
        return found

    chosen = rows["chosen_reward"] if "chosen_reward" in rows else [None] * len(rows)
    return {
        "prompts": [text(one) for one in rows["prompt"]],
        "places": [int(index) + 1 for index in rows.index],
        "chosen": {
            "responses": [text(one) for one in rows["chosen"]],
            "reward": [rounded(finite(one), 3) for one in chosen],
        },
        "reference": columns(reference),
        "policies": [{"trial": place, **columns(table)} for (place, _), table in policies],
    }
