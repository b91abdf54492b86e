"""Numbers as people read them, and every escape that text from data needs on its way out.

The page escapes HTML by itself (Jinja's autoescape); the functions here cover the places that
autoescape does not: JSON inside a script element, plotly's pseudo-HTML, Markdown, matplotlib.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MISSING = "\u2013"
_MINUS = "\u2212"
_JSON_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
_KEPT_CONTROLS = "\n\t"
_BIDI_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


def number(value: float | None, decimals: int = 3) -> str:
    """A number with fixed decimals and a true minus sign; a dash when it is missing.

    >>> number(0.12345), number(0.004, 2), number(1234.5, 0)
    ('0.123', '0.004', '1,234')
    >>> number(-2.0) == "\u22122.000", number(None) == "\u2013"
    (True, True)
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    tiny = 0 < abs(value) < 10.0**-decimals
    text = f"{value:.1g}" if tiny else f"{value:,.{decimals}f}"
    if not float(text.replace(",", "")):
        text = text.lstrip("-")
    return text.replace("-", _MINUS)


def interval(low: float | None, high: float | None, decimals: int = 3) -> str:
    """A 95% interval in brackets; empty when it is missing.

    >>> interval(0.1, 0.25, 2), interval(None, None)
    ('[0.10, 0.25]', '')
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low, decimals)}, {number(high, decimals)}]"


def plain_number(value: float) -> str:
    """The shortest spelling of a setting.

    >>> plain_number(0.1), plain_number(3.0), plain_number(5e-7), plain_number(1e-3)
    ('0.1', '3', '5e-07', '0.001')
    """
    return f"{value:.6g}"


def rounded(value: float | None, digits: int = 5) -> float | None:
    """A value for a picture: so many significant digits, None when it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    shortened = float(f"{value:.{digits}g}")
    return shortened if math.isfinite(shortened) else value


def listing(items: Sequence[str]) -> str:
    """Items as in a sentence.

    >>> listing(["a"]), listing(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def counted(count: int, singular: str, plural: str = "") -> str:
    """A count with its noun.

    >>> counted(1, "trial"), counted(20, "trial"), counted(2, "loss", "losses")
    ('1 trial', '20 trials', '2 losses')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def visible(text: str) -> str:
    """Text without what cannot be seen or that reorders its surroundings.

    Control characters become their pictures (U+2400 and on), directional controls and lone
    surrogates the replacement character; line ends become newlines.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\u2028", "\n").replace("\u2029", "\n")
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character in _KEPT_CONTROLS:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if character in _BIDI_CONTROLS or unicodedata.category(character) in {"Cs", "Cc"}:
        return "\ufffd"
    return character


def one_line(text: str, limit: int = 0) -> str:
    """Visible text with white space folded, cut with an ellipsis after ``limit`` characters."""
    folded = " ".join(visible(text).split())
    return clipped(folded, limit) if limit else folded


def clipped(text: str, limit: int) -> str:
    """At most ``limit`` characters, ending in an ellipsis when something was cut."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def script_json(value: Any) -> str:
    r"""Compact JSON that cannot leave a script element, whatever strings it holds.

    >>> script_json({"a": "</script><!--"})
    '{"a":"\\u003c/script\\u003e\\u003c!--"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character, escape in _JSON_ESCAPES.items():
        text = text.replace(character, escape)
    return text


def plotly_text(text: str) -> str:
    """Text for plotly, which reads some HTML (links included), ``%{...}`` and ``$mathematics$``.

    >>> plotly_text('<a href="x">%{y}</a> $z$')
    '&lt;a href="x"&gt;%&#123;y}&lt;/a&gt; &#36;z&#36;'
    """
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("{", "&#123;").replace("$", "&#36;")


def markdown_text(text: str) -> str:
    r"""Text that Markdown shows as it stands: no markup, HTML, table cell, link or mention.

    >>> markdown_text("a|b <b> *c* https://x.y")
    'a\\|b &lt;b&gt; \\*c\\* https&#58;//x.y'
    """
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)
    text = text.replace("://", "&#58;//").replace("@", "&#64;")
    text = re.sub(r"(?i)\bwww\.", lambda match: f"{match[0][:-1]}\\.", text)
    text = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)
    return re.sub(r"^([-+=#])", r"\\\1", text)


def markdown_fence(text: str) -> str:
    """Text as a fenced code block, whose fence is longer than any run of backticks in it."""
    runs = [len(run) for run in re.findall(r"`+", text)]
    fence = "`" * max(3, max(runs, default=0) + 1)
    return f"{fence}text\n{visible(text)}\n{fence}"


def drawable(text: str, available: Iterable[int]) -> str:
    """Text of which the font has every glyph; what it lacks becomes a question mark."""
    known = frozenset(available)
    return "".join(c if ord(c) in known else "?" for c in one_line(text))
