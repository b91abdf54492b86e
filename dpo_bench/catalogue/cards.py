"""The registry as people and programs read it: cards, a table, one loss explained, the README."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.contract import NEEDS, Loss, get_loss, list_losses, list_modifiers
from dpo_bench.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

Card = dict[str, Any]

FAMILIES: Mapping[str, str] = {
    "pairwise": "of the margin alone: chosen minus rejected log-ratio",
    "length-aware": "of the margin and of the responses' lengths",
    "anchored": "of each log-ratio by itself: also pulls on where the chosen response goes",
    "graded": "of the margin and of how much better the data says the chosen response is",
    "token-level": "of the margin and of the policy's distribution along the responses",
    "batch-coupled": "of all pairs of a batch together",
    "reference-free": "of the policy alone",
    "composed": "of other losses",
}
"""Headings in the order in which lists show them, each with what its losses are functions of."""


def shipped_losses() -> list[str]:
    """Names of the losses that come with the program, sorted; plug-ins are left out."""
    home = Path(next(iter(importlib.import_module("dpo_bench.losses").__path__))).resolve()
    return [name for name in list_losses() if home in get_loss(name).source_file.parents]


def catalogue(names: Iterable[str] | None = None) -> list[Card]:
    """One JSON-able card per loss, by family and name; all losses unless names are given.

    A card's keys: name, aliases, family, paper, normalization, needs_reference, needs,
    batch_coupled, strength (the hyperparameter that the grid varies, or None), hyperparameters
    (name -> default and range), grid, kl_by (what a search tries, in order), summary,
    documentation, file.

    Raises:
        UnknownLossError: no loss has one of the names.
    """
    losses = [get_loss(name) for name in (list_losses() if names is None else names)]
    return [_card(loss) for loss in sorted(losses, key=_place)]


def _place(loss: Loss) -> tuple[int, str, str]:
    known = list(FAMILIES)
    rank = known.index(loss.family) if loss.family in known else len(known)
    return rank, loss.family, loss.name


def _card(loss: Loss) -> Card:
    return {
        "name": loss.name,
        "aliases": list(loss.aliases),
        "family": loss.family,
        "paper": loss.paper,
        "normalization": loss.normalization,
        "needs_reference": loss.needs_reference,
        "needs": list(loss.needs),
        "batch_coupled": loss.batch_coupled,
        "strength": loss.strength,
        "hyperparameters": {
            name: {"default": default, "range": str(loss.ranges[name])}
            for name, default in loss.hyperparameters.items()
        },
        "grid": list(loss.grid),
        "kl_by": list(loss.axes),
        "summary": loss.summary,
        "documentation": _documentation(loss),
        "file": str(loss.source_file),
    }


def _documentation(loss: Loss) -> str:
    """Its docstring without the example at the end."""
    return (inspect.getdoc(loss.function) or "").split("\n>>> ")[0].strip()


def matching(text: str = "") -> list[Card]:
    """Cards whose name, alias, family, paper or summary contains the text, in any case.

    Raises:
        ConfigurationError: there is none.
    """
    keys = ("name", "aliases", "family", "paper", "summary")
    cards = catalogue()
    found = [c for c in cards if any(text.casefold() in str(c[key]).casefold() for key in keys)]
    if not found:
        raise ConfigurationError(f"no loss mentions {text!r}; there are {len(cards)} without it.")
    return found


def render_table(text: str = "") -> Group:
    """The losses that match a text (see `matching`), by family, for the terminal."""
    from rich.console import Group

    families = groupby(matching(text), key=lambda card: card["family"])
    return Group(*(_family_table(family, cards) for family, cards in families))


def _family_table(family: str, cards: Iterable[Card]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(family, style="bold").append(f"  {FAMILIES.get(family, '')}", style="dim")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, expand=True)
    table.add_column("loss", width=24)
    table.add_column("per pair", ratio=1)
    table.add_column("logps", width=5)
    table.add_column("default, grid", width=20)
    for card in cards:
        name = Text(card["name"], style="cyan")
        for alias in card["aliases"]:
            name.append(f"\n  {alias}", style="dim")
        tuning = Text(_strength(card)).append(f"\n{_numbers(card['grid'])}", style="dim")
        table.add_row(name, Text(card["summary"]), Text(card["normalization"]), tuning)
    return table


def render_card(name: str) -> Group:
    """One loss explained, for the terminal.

    Raises:
        UnknownLossError: no loss has this name.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    (card,) = catalogue([name])
    facts = Table.grid(padding=(0, 2))
    for label, value in _facts(card):
        facts.add_row(Text(label, style="dim"), Text(value))
    title = Text(card["name"], style="bold cyan")
    return Group(title, Text(), Text(card["documentation"]), Text(), facts)


def _facts(card: Card) -> list[tuple[str, str]]:
    knobs = [
        f"{name} = {knob['default']:g} in {knob['range']}"
        for name, knob in card["hyperparameters"].items()
    ]
    return [
        ("aliases", ", ".join(card["aliases"]) or "none"),
        ("family", card["family"]),
        ("paper", card["paper"]),
        ("log-probs", {"sum": "summed over tokens", "mean": "per token"}[card["normalization"]]),
        ("reference", "needed" if card["needs_reference"] else "not used"),
        ("needs", "\n".join(f"{n}: {NEEDS[n].meaning}" for n in card["needs"]) or "nothing more"),
        ("batch", "whole: its pairs are coupled" if card["batch_coupled"] else "any part of it"),
        ("hyperparameters", "\n".join(knobs) or "none"),
        ("grid", f"{card['strength']}: {_numbers(card['grid'])}" if card["grid"] else "none"),
        ("a search tries", ", ".join(card["kl_by"]) or "nothing of its own"),
        ("file", card["file"]),
    ]


def _strength(card: Card) -> str:
    """The strength's name and default."""
    if not card["strength"]:
        return "-"
    return f"{card['strength']} {card['hyperparameters'][card['strength']]['default']:g}"


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "-"


def markdown_table() -> str:
    """The shipped losses as Markdown, a table per family."""
    parts = []
    cards = catalogue(shipped_losses())
    for family, members in groupby(cards, key=lambda card: card["family"]):
        rows = [
            f"**{family}**: functions {FAMILIES[family]}",
            "",
            "| loss | per pair | paper | log-probs | strength, default | grid |",
            "|---|---|---|---|---|---|",
            *map(_markdown_row, members),
        ]
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _markdown_row(card: Card) -> str:
    names = f"`{card['name']}`" + "".join(f", `{alias}`" for alias in card["aliases"])
    paper = re.sub(
        r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", _escape(card["paper"])
    )
    cells = (names, _escape(card["summary"]), paper, card["normalization"])
    return "| " + " | ".join((*cells, _strength(card), _numbers(card["grid"]))) + " |"


def _escape(text: str) -> str:
    """Text whose characters Markdown leaves alone."""
    return re.sub(r"([\\`*_<>|~\[\]])", r"\\\1", text)


def loss_pages() -> dict[str, str]:
    """The documentation of the shipped losses: file name -> Markdown, an index among them."""
    cards = catalogue(shipped_losses())
    pages = {f"{card['name']}.md": _page(card) for card in cards}
    pages["README.md"] = _index(cards)
    return pages


def _page(card: Card) -> str:
    facts = [(label, value) for label, value in _facts(card) if label != "file"]
    rows = [f"| {label} | {_escape(value).replace(chr(10), '<br>')} |" for label, value in facts]
    summary, _, rest = card["documentation"].partition("\n")
    source = Path(card["file"]).name
    return "\n".join(
        [
            f"# {card['name']}",
            "",
            _escape(summary),
            "",
            _prose(rest.strip()),
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            f"Source: [losses/{source}](../../losses/{source}).",
            f"`dpo-bench losses {card['name']} --plot` draws it.",
            "",
        ]
    )


def _prose(text: str) -> str:
    """A docstring's paragraphs; what it puts into backticks stays so."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(part if part.startswith("`") else _escape(part) for part in parts)


def _index(cards: Iterable[Card]) -> str:
    lines = [
        "# Losses",
        "",
        "Written from the registry by `python -m dpo_bench.catalogue.docs`.",
        "",
    ]
    for family, members in groupby(cards, key=lambda card: card["family"]):
        lines += [f"**{family}**: functions {FAMILIES[family]}", ""]
        lines += [f"- [{c['name']}]({c['name']}.md): {_escape(c['summary'])}" for c in members]
        lines.append("")
    lines += ["**modifiers**: written `name(loss)`", ""]
    lines += [
        f"- `{modifier.name}`: {_escape(modifier.summary)} ({_escape(modifier.paper)})"
        for modifier in list_modifiers()
    ]
    lines += [
        "",
        "**mixtures**: weighted sums such as `0.8*dpo + 0.2*bco + 1.0*sft`",
        "(Wang et al. 2024, arXiv:2411.10442)",
        "",
        "[Where and why other code differs](../differences.md).",
        "",
    ]
    return "\n".join(lines)
