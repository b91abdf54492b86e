"""The report as Markdown, for a repository or a pull request; pictures are the figure files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import KL
from dpo_bench.report.matched_table import MatchedTables
from dpo_bench.report.table_values import Cell, HeatMap, Table
from dpo_bench.report.view import ReportView
from dpo_bench.wording import MISSING, markdown_fence, markdown_text, number

FAMILY = "Holm's correction over all pairs at all compared KLs"
_SAMPLE_PROMPTS = 3
"""prompts whose responses are printed; the page has more"""

_BY_KL = "against KL to the reference, one curve per loss"
_PICTURES = {
    "frontier": ("Reward against KL", f"Mean reward {_BY_KL}"),
    "win_rate": ("Win rate by KL", f"Win rate against the reference {_BY_KL}"),
    "preference_accuracy": ("Preference accuracy by KL", f"Held-out accuracy {_BY_KL}"),
    "differences": ("", "Differences at matched KL"),
    "heat_map": ("Loss by strength", "Figures by loss and strength"),
    "displacement": ("Likelihood displacement", f"Chosen and rejected log-ratios {_BY_KL}"),
    "training": ("Training curves", "Loss, margin and accuracy by step"),
}
"""heading and text alternative of each figure"""


def render_markdown(view: ReportView, figures: Sequence[str]) -> str:
    """The whole report.

    Args:
        view: its content.
        figures: names of the figure files in ``figures/``.
    """
    parts = [
        f"# {markdown_text(view.results.name)}",
        " ".join(map(markdown_text, view.findings.sentences)),
        *([_bullets(view.findings.also)] if view.findings.also else []),
        *_warnings(view),
        *_setup(view),
        *([f"> {markdown_text(view.no_reward)}"] if view.no_reward else []),
        *_pictures(figures, ("frontier", "win_rate", "preference_accuracy")),
        *_matched(view, figures),
        *_further(view),
        *_pictures(figures, ("heat_map",)),
        *map(_heat_map, view.heat_maps[:1]),
        *_results(view),
        *_pictures(figures, ("displacement", "training")),
        *_samples(view),
        *_failed(view),
        *_methods(view),
        *(_rerun(view) if view.experiment else ()),
    ]
    return "\n\n".join(parts) + "\n"


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]], numbers_from: int = 1) -> str:
    """A Markdown table of cells that are escaped already."""
    titles = list(headings)
    rule = ["---" if index < numbers_from else "---:" for index in range(len(titles))]
    lines = [titles, rule, *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    return markdown_text(f"{cell.text} {cell.detail}".strip())


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_text(item)}" for item in items)


def _pictures(figures: Sequence[str], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name in figures:
            title, alternative = _PICTURES[name]
            if title:
                yield f"## {title}"
            yield f"![{alternative}](figures/{name}.svg)"


def _warnings(view: ReportView) -> Iterator[str]:
    if view.findings.warnings:
        yield f"**Check these figures**\n\n{_bullets(view.findings.warnings)}"


def _setup(view: ReportView) -> Iterator[str]:
    setup = view.setup
    for title, items in (("Varied", setup.varied), ("Tuned", setup.tuned), ("Fixed", setup.fixed)):
        lines = "\n".join(
            f"- {markdown_text(term)}: {markdown_text(value)}" for term, value in items
        )
        yield f"**{title}**\n\n{lines or '- nothing'}"
    yield _bullets(setup.caveats)


def _matched(view: ReportView, figures: Sequence[str]) -> Iterator[str]:
    yield "## Losses at the same KL"
    if view.matched is None or isinstance(view.comparison, str):
        yield markdown_text(str(view.comparison))
        return
    ends = [number(end, KL.decimals) for end in (view.comparison.low, view.comparison.high)]
    yield (
        f"{view.comparison.coverage} KL {ends[0]} to {ends[1]} nats; they are compared inside that"
        f" range, on the same {view.comparison.prompts:,} prompts."
    )
    for one in view.compared:
        yield from _by_measure(one, len(view.results.seeds) > 1)
        if one is view.matched:
            yield from _pictures(figures, ("differences",))


def _by_measure(matched: MatchedTables, many_seeds: bool) -> Iterator[str]:
    yield f"### {markdown_text(matched.measure.title)}"
    levels = [f"at {level} nats" for level in matched.levels]
    yield "With 95% intervals:"
    yield _table(
        ["Loss", *levels], ([_name(one), *map(_cell, cells)] for one, cells in matched.values)
    )
    yield from _groups(matched, levels)
    yield (
        f"Differences, first minus second, paired over the same {matched.comparison.prompts:,}"
        f" prompts{' and over seeds' if many_seeds else ''}; the 95% intervals are"
        f" each pair's own, the verdicts those after {FAMILY}:"
    )
    yield _table(
        ["Pair", *levels],
        (
            [
                markdown_text(title),
                *(_difference(one.cell, one.verdict, one.needed, one.spread) for one in cells),
            ]
            for title, cells in matched.differences
        ),
    )


def _groups(matched: MatchedTables, levels: Sequence[str]) -> Iterator[str]:
    if matched.few:
        yield "Groups of which no two losses are separated, the best first:"
        yield "\n".join(
            f"- {level} nats: {'; '.join(f'**{markdown_text(group)}**' for group in groups)}"
            for level, groups in zip(matched.levels, matched.groups, strict=True)
        )
        return
    yield "Losses that share a letter are not separated at that KL; a is the best one's group:"
    yield _table(
        ["Loss", *levels],
        (
            [_name(one), *(at.get(one.index, MISSING) for at in matched.letters)]
            for one, _ in matched.values
        ),
    )


def _further(view: ReportView) -> Iterator[str]:
    for one in view.further:
        yield f"## {markdown_text(one.title)}"
        yield markdown_text(one.about)
        if one.table.rows:
            yield _plain_table(one.table, 1)


def _difference(cell: Cell, *words: str) -> str:
    return ", ".join(filter(None, (_cell(cell), *map(markdown_text, words))))


def _name(series: LossCurve) -> str:
    return markdown_text(series.label)


def _heat_map(heat_map: HeatMap) -> str:
    headings = ["Loss", *(f"strength {rank + 1}" for rank in range(heat_map.ranks))]
    rows = []
    for one, cells in heat_map.rows:
        shown = [markdown_text(f"{cell.strength}: {cell.cell.text}") for cell in cells]
        rows.append([_name(one), *shown, *[""] * (heat_map.ranks - len(cells))])
    title = f"{markdown_text(heat_map.measure.axis)}, by the order of strength within each loss:"
    return f"{title}\n\n{_table(headings, rows)}"


def _results(view: ReportView) -> Iterator[str]:
    yield "## Every trial"
    yield (
        "Value, 95% interval and n; missing figures are dashes, never zeros. All columns are in"
        " `results.csv`."
    )
    yield _plain_table(view.table, 4 if len(view.results.seeds) > 1 else 3)
    if view.seeds is not None:
        yield "### Spread over training seeds"
        yield "Mean over seeds ± standard deviation (n \u2212 1)."
        yield _plain_table(view.seeds, 1)


def _plain_table(table: Table, numbers_from: int) -> str:
    headings = [markdown_text(title) for title, _ in table.columns]
    return _table(headings, (map(_cell, row.cells) for row in table.rows), numbers_from)


def _samples(view: ReportView) -> Iterator[str]:
    browser = view.browser
    if browser is None:
        return
    default, title = browser.views[0]
    yield "## Responses side by side"
    yield (
        f"Picked by position, not by content; {markdown_text(title)}. The page shows more prompts"
        " and policies."
    )
    step = max(len(browser.prompts) // _SAMPLE_PROMPTS, 1)
    for one in browser.prompts[::step][:_SAMPLE_PROMPTS]:
        yield f"**Prompt**\n\n{markdown_fence(one.prompt)}"
        for card in one.cards:
            if not card.views or default in card.views:
                facts = markdown_text(", ".join(card.facts))
                yield f"{markdown_text(card.title)} ({facts})\n\n{markdown_fence(card.text)}"


def _failed(view: ReportView) -> Iterator[str]:
    yield "## Failed trials"
    if not view.failed:
        yield "No trial failed."
    for one in view.failed:
        title, trial, error = map(markdown_text, (one.title, one.trial, one.error))
        yield f"**{title}** (trial {trial}): {error}"
        if one.traceback:
            yield markdown_fence(one.traceback)


def _methods(view: ReportView) -> Iterator[str]:
    yield "## Methods"
    for title, text in view.notes:
        yield f"**{markdown_text(title)}.** {markdown_text(text)}"


def _rerun(view: ReportView) -> Iterator[str]:
    yield "## Run it again"
    yield markdown_fence(view.results.command)
    yield "\n".join(
        f"- {markdown_text(key)}: {markdown_text(value)}" for key, value in view.provenance
    )
    yield "The settings, every key, are in `experiment.json`."
