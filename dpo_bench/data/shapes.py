"""Data that says which response is better in other ways than by two columns: made into pairs.

A shape is known by its columns. It turns rows into rows with ``chosen``, ``rejected``, mostly
``prompt``, and ``margin`` where there are scores; the other columns stay. Of more than two
responses to a prompt the best and the worst make one pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_bench.contract.suggestions import nearest
from dpo_bench.data.margins import as_number
from dpo_bench.data.problems import Reason, RowProblem
from dpo_bench.data.rows import Rows, SourceLocation
from dpo_bench.errors import ConfigurationError, DataError
from dpo_bench.experiment.config import Data

Row = Mapping[str, Any]
Made = tuple[SourceLocation, "dict[str, Any] | RowProblem"]
Converter = Callable[[Rows], Iterator[Made]]
Verdict = tuple[float, float | None]
"""Above 0 where the first response is better, below 0 for the second; and the margin, if known."""

AUTO, PAIRS = "auto", "pairs"


@dataclass(frozen=True, slots=True)
class Shape:
    """A way to lay out preferences.

    Attributes:
        name: the value of ``data.shape``.
        columns: what it is known by.
        convert: makes rows into rows of pairs, or into the problem that a row has.
        description: how, in plain words.
    """

    name: str
    columns: frozenset[str]
    convert: Converter
    description: str


def find_shape(rows: Rows, options: Data) -> Shape | None:
    """The shape of some rows; None where they are pairs already, or of no known shape.

    Raises:
        ConfigurationError: the options name an unknown shape.
        DataError: the rows lack columns of the shape that the options name.
    """
    columns = frozenset(rows.columns)
    if options.shape == PAIRS:
        return None
    if options.shape == AUTO:
        responses = {options.chosen_column, options.rejected_column}
        if responses & columns:  # even one of them: the other is then misspelt, not missing
            return None
        return next((shape for shape in SHAPES if shape.columns <= columns), None)
    shape = next((shape for shape in SHAPES if shape.name == options.shape), None)
    if shape is None:
        names = (AUTO, PAIRS, *(shape.name for shape in SHAPES))
        raise ConfigurationError(
            f"data.shape = {options.shape!r} is no shape{nearest(options.shape, names)}; "
            f"it is one of {', '.join(names)}."
        )
    lacking = sorted(shape.columns - columns)
    if lacking:
        raise DataError(
            f"{rows.source}: data.shape = {shape.name!r} needs the columns "
            f"{', '.join(sorted(shape.columns))}; there is no {', '.join(lacking)}."
        )
    return shape


def _by_row(make: Callable[[Row], dict[str, Any]]) -> Converter:
    """Each row a pair by itself."""

    def convert(rows: Rows) -> Iterator[Made]:
        for row, place in zip(rows.records, rows.places, strict=True):
            try:
                yield place, {**row, **make(row)}
            except RowProblem as problem:
                yield place, problem

    return convert


def _two(first: str, second: str, verdict: Callable[[Row], Verdict], prompt: str = "") -> Converter:
    """Two responses in two columns, and a verdict on them.

    Args:
        first: column of the first response.
        second: column of the second.
        verdict: which is better.
        prompt: column of the prompt; empty: it is called that, or the responses begin with it.
    """

    def make(row: Row) -> dict[str, Any]:
        lead, margin = verdict(row)
        if not lead:
            raise RowProblem(Reason.TIE, "neither response is preferred")
        chosen, rejected = (first, second) if lead > 0 else (second, first)
        made = {"chosen": row.get(chosen), "rejected": row.get(rejected)}
        if prompt:
            made["prompt"] = row.get(prompt)
        return made if margin is None else made | {"margin": margin}

    return _by_row(make)


def _best_and_worst(scored: Iterable[tuple[float | None, Any]]) -> dict[str, Any]:
    """The pair of several responses to one prompt; one without a score is passed over."""
    known = [(score, response) for score, response in scored if score is not None]
    if len(known) < 2:
        raise RowProblem(Reason.ALONE, "it has fewer than two responses with a score")
    best, worst = (extreme(known, key=lambda one: one[0]) for extreme in (max, min))
    if best[0] == worst[0]:
        raise RowProblem(Reason.TIE, "all responses have the same score")
    return {"chosen": best[1], "rejected": worst[1], "margin": best[0] - worst[0]}


def _listed(
    prompt: Sequence[str], column: str, scored: Callable[[Row], Iterable[tuple[float | None, Any]]]
) -> Converter:
    """Several responses in a list, each with a score.

    Args:
        prompt: columns that may hold the prompt.
        column: column of the list, for messages.
        scored: scores and responses of a row.
    """

    def make(row: Row) -> dict[str, Any]:
        try:
            made = _best_and_worst(list(scored(row)))
        except (TypeError, AttributeError, ValueError):
            raise RowProblem(
                Reason.TYPE, f"{column!r} is no list of responses with a score each"
            ) from None
        name = next((name for name in prompt if row.get(name) is not None), prompt[0])
        return {**made, "prompt": row.get(name)}

    return _by_row(make)


def _items(column: str, text: str, score: Callable[[Row], float | None]) -> Callable[..., Any]:
    """Scores and texts of a list of objects."""
    return lambda row: [(score(item), item.get(text)) for item in row[column] or []]


def _consecutive(score: str) -> Converter:
    """Single responses with a score: those of consecutive rows with the same prompt make a pair."""

    def convert(rows: Rows) -> Iterator[Made]:
        placed = zip(rows.records, rows.places, strict=True)
        for prompt, group in itertools.groupby(placed, key=lambda one: one[0].get("prompt")):
            members = list(group)
            row, place = members[0]
            try:
                made = _best_and_worst(
                    (as_number(one.get(score)), one.get("response")) for one, _ in members
                )
            except RowProblem as problem:
                yield place, problem
            else:
                yield place, {**row, **made, "prompt": prompt}

    return convert


def _strength(column: str) -> Callable[[Row], Verdict]:
    """A number below 0 where the first response is better, above 0 for the second."""

    def verdict(row: Row) -> Verdict:
        number = as_number(row.get(column))
        if number is None:
            raise RowProblem(Reason.MISSING, f"it has no number as {column!r}")
        return -number, abs(number)

    return verdict


def _labeled(column: str, first: object, second: object, *ties: object) -> Callable[[Row], Verdict]:
    """A label of the better response; numbers may be spelled as text, as in CSV."""

    def verdict(row: Row) -> Verdict:
        label = row.get(column)
        number = None if isinstance(label, str) and not label.strip() else as_number(label)
        value = label if number is None else number
        if value in ties:
            return 0.0, None
        if value not in (first, second):
            raise RowProblem(
                Reason.TYPE, f"{column!r} is {label!r}, neither {first!r} nor {second!r}"
            )
        return (1.0 if value == first else -1.0), None

    return verdict


def _shp(row: Row) -> Verdict:
    lead, _ = _labeled("labels", 1, 0)(row)
    scores = as_number(row.get("score_A")), as_number(row.get("score_B"))
    margin = None if None in scores else abs((scores[0] or 0.0) - (scores[1] or 0.0))
    return lead, margin


def _generations(row: Row) -> list[tuple[float | None, Any]]:
    texts, ratings = row["generations"] or [], row["ratings"] or []
    return [(as_number(rating), text) for text, rating in zip(texts, ratings, strict=True)]


def _rank(item: Row) -> float | None:
    rank = as_number(item.get("rank"))
    return None if rank is None else -rank


ARENA_TIES = ("tie", "tie (bothbad)", "tie (both bad)", "both_bad")

SHAPES = (
    Shape(
        "helpsteer3",
        frozenset({"context", "response1", "response2", "overall_preference"}),
        _two("response1", "response2", _strength("overall_preference"), "context"),
        "HelpSteer3: response1 and response2 by overall_preference; margin: its size",
    ),
    Shape(
        "helpsteer2_preference",
        frozenset({"prompt", "response_1", "response_2", "preference_strength"}),
        _two("response_1", "response_2", _strength("preference_strength")),
        "HelpSteer2-Preference: response_1 and response_2 by preference_strength; margin: its size",
    ),
    Shape(
        "helpsteer",
        frozenset({"prompt", "response", "helpfulness"}),
        _consecutive("helpfulness"),
        "HelpSteer: of consecutive rows with one prompt the best response against the worst, by "
        "helpfulness; margin: its difference",
    ),
    Shape(
        "shp",
        frozenset({"history", "human_ref_A", "human_ref_B", "labels"}),
        _two("human_ref_A", "human_ref_B", _shp, "history"),
        "SHP: human_ref_A and human_ref_B by labels; margin: |score_A - score_B|",
    ),
    Shape(
        "safe_rlhf",
        frozenset({"prompt", "response_0", "response_1", "better_response_id"}),
        _two("response_0", "response_1", _labeled("better_response_id", 0, 1)),
        "PKU-SafeRLHF: response_0 and response_1 by better_response_id",
    ),
    Shape(
        "arena",
        frozenset({"conversation_a", "conversation_b", "winner"}),
        _two(
            "conversation_a",
            "conversation_b",
            _labeled("winner", "model_a", "model_b", *ARENA_TIES),
        ),
        "Chatbot Arena: conversation_a and conversation_b by winner",
    ),
    Shape(
        "ultrafeedback",
        frozenset({"instruction", "completions"}),
        _listed(
            ["instruction"],
            "completions",
            _items("completions", "response", lambda item: as_number(item.get("overall_score"))),
        ),
        "UltraFeedback: the best of the completions against the worst, by overall_score; margin: "
        "its difference",
    ),
    Shape(
        "generations",
        frozenset({"generations", "ratings"}),
        _listed(["instruction", "prompt", "input"], "generations", _generations),
        "generations with ratings: the best against the worst; margin: the difference",
    ),
    Shape(
        "nectar",
        frozenset({"prompt", "answers"}),
        _listed(["prompt"], "answers", _items("answers", "answer", _rank)),
        "Nectar: the first of the answers against the last, by rank; margin: the difference",
    ),
)
"""All shapes, the first that fits is taken; a new one is one more entry."""
