"""``dpo-bench cache``: what is kept between sweeps, listed, checked and removed.

As in `dpo_bench.cli`, imports wait until a command needs them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from dpo_bench.errors import ConfigurationError

if TYPE_CHECKING:
    from dpo_bench.cache import Entry

app = typer.Typer(
    name="cache",
    help="What is kept between sweeps: list it, check it, remove what is old.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command("list")
def list_entries() -> None:
    """Show what is kept, kind by kind: entries, size, last use."""
    from rich.table import Column, Table

    from dpo_bench.cache import KINDS, entries
    from dpo_bench.storage import cache_root
    from dpo_bench.terminal import Terminal

    table = Table(
        "kind", *(Column(name, justify="right") for name in ("entries", "MB", "last used")), "what"
    )
    found = list(entries())
    for kind, meaning in KINDS.items():
        if own := [one for one in found if one.kind == kind]:
            used = time.strftime("%Y-%m-%d", time.localtime(max(one.used for one in own)))
            table.add_row(kind, str(len(own)), _megabytes(own), used, meaning)
    table.add_row("all", str(len(found)), _megabytes(found), "", str(cache_root()))
    Terminal().print(table)


@app.command()
def check() -> None:
    """Hold every entry against its digests; exit code 1 names those that are damaged.

    A damaged entry is made anew by the next sweep that needs it.
    """
    from dpo_bench.cache import damage, entries
    from dpo_bench.terminal import Terminal, say
    from dpo_bench.wording import counted

    console = Terminal()
    found = list(entries())
    damaged = [(one, wrong) for one in found if (wrong := damage(one))]
    for one, wrong in damaged:
        say(console, f"DAMAGED: {one.path} ({', '.join(wrong)})")
    if damaged:
        say(
            console,
            f"{counted(len(damaged), 'entry', 'entries')} damaged: a sweep that needs one makes it "
            "anew; `dpo-bench cache prune --damaged` removes them.",
        )
        raise typer.Exit(1)
    say(console, f"{counted(len(found), 'entry', 'entries')}, every file as it was written.")


@app.command("prune")
def prune_entries(
    *,
    older_than: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0.0, help="Remove what was not used for so many days."),
    ] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Remove what is damaged.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
) -> None:
    """Remove entries; what a running sweep uses stays.

    Answers of a judge that was paid are entries too: removed, they are asked, and paid, again.
    """
    from dpo_bench.cache import DAY, damage, entries, remove_old_leftovers
    from dpo_bench.terminal import Terminal, say
    from dpo_bench.wording import counted

    if (older_than is not None) + damaged + everything != 1:
        raise ConfigurationError("cache prune: give one of --older-than DAYS, --damaged and --all.")
    before = time.time() - DAY * (older_than or 0.0)
    chosen = (one for one in entries() if (damage(one) if damaged else one.used <= before))
    console = Terminal()
    removed, in_use = _prune(chosen)
    leftovers = remove_old_leftovers()
    say(console, f"removed {counted(len(removed), 'entry', 'entries')}, {_megabytes(removed)} MB.")
    if in_use:
        say(console, f"{counted(len(in_use), 'entry', 'entries')} left: a running sweep uses them.")
    if leftovers:
        say(console, f"removed {counted(len(leftovers), 'leftover')} of killed runs.")


def _prune(chosen: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
    from dpo_bench.cache import prune
    from dpo_bench.disk import storage_error
    from dpo_bench.storage import cache_root

    removed: list[Entry] = []
    in_use: list[Entry] = []
    for one in chosen:
        try:
            (removed if prune(one) else in_use).append(one)
        except FileNotFoundError:
            continue  # somebody else removed it
        except OSError as error:
            raise storage_error(one.path, error, cache_root()) from error
    return removed, in_use


def _megabytes(found: Iterable[Entry]) -> str:
    return f"{sum(one.size for one in found) / 1e6:.1f}"
