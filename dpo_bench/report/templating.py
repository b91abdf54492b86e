"""Templates hold the report's words; every value in them is escaped for the format it goes into.

A value that is a plain string is text, perhaps from data: it is escaped on its way out, whatever
the format. What a template itself holds, and what its macros return, is markup and stays as it is.
A missing value is an error, never an empty place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from dpo_bench.analysis.metrics import KL
from dpo_bench.report.configuration import spelled
from dpo_bench.wording import (
    counted,
    interval,
    listing,
    markdown_fence,
    number,
    one_line,
    plain_number,
)

if TYPE_CHECKING:
    from jinja2 import Environment

_VALUE = "\0"
"""Stands before each value in a template of sentences; `one_line` lets none through."""
_ITEM = re.compile(r"^[ \t]*- ", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*## (.*)$", re.MULTILINE)


def new_environment(escape: Callable[[str], str], **syntax: Any) -> Environment:
    """The templates of one format.

    Args:
        escape: makes text from data show as it stands.
        syntax: delimiters and white space, as jinja2's `Environment` takes them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        if value is None:
            raise ValueError("a template shows a value that is not known")
        return Markup(escape(value)) if type(value) is str else value  # noqa: S704 - just escaped

    # Markup is what autoescape leaves alone: all that it could escape has been by `finalize`.
    environment = Environment(
        loader=PackageLoader("dpo_bench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        **syntax,
    )
    environment.filters |= {
        "number": number,
        "nats": lambda kl: number(kl, KL.decimals),
        "spelled": spelled,
        "plain": plain_number,
        "counted": counted,
        "listing": listing,
        "thousands": lambda value: f"{value:,}",
        "percent": lambda share, decimals=0: f"{100 * share:.{decimals}f}%",
        "percentage": lambda share: f"{100 * share:g}%",
        "ends": lambda figure, decimals=3: interval(figure.low, figure.high, decimals),
        "one_line": one_line,
        "fenced": lambda text: Markup(markdown_fence(text)),  # noqa: S704 - a fence holds any text
    }
    return environment


@cache
def _sentences() -> Environment:
    """Templates of sentences: plain text, which each format escapes as a whole later."""
    return new_environment(lambda text: _VALUE + one_line(text))


class Words:
    """The sentences of a template in ``templates/words``, macro by macro.

    White space and line ends in it are a space. A line that begins with ``- `` begins a sentence
    (or several that belong together), one that begins with ``## `` is a heading. No value can begin
    either, whatever text it holds.
    """

    def __init__(self, template: str, /, **values: Any) -> None:
        """Read a template.

        Args:
            template: its name without ending.
            values: what its macros read.
        """
        found = _sentences().get_template(f"words/{template}.j2")
        self._macros = found.make_module(values)

    def items(self, macro: str, *arguments: Any) -> tuple[str, ...]:
        """What a macro says, an item for each line with a dash; empty items are left out."""
        _, *items = _ITEM.split(self._text(macro, *arguments))
        return tuple(filter(None, map(_folded, items)))

    def paragraph(self, macro: str, *arguments: Any) -> str:
        """What a macro says, as running text."""
        return " ".join(self.items(macro, *arguments))

    def notes(self, macro: str, *arguments: Any) -> Iterator[tuple[str, str]]:
        """What a macro says under headings: each with its text."""
        _, *parts = _HEADING.split(self._text(macro, *arguments))
        return zip(map(_folded, parts[::2]), map(_folded, parts[1::2]), strict=True)

    def _text(self, macro: str, *arguments: Any) -> str:
        return str(getattr(self._macros, macro)(*arguments))


def _folded(text: str) -> str:
    return " ".join(text.replace(_VALUE, "").split())
