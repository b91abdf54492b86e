"""What becomes of good input in the hands of a fuzzer: wrong bytes and odd values."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**40, 0.0, -0.0, 0.5, 1e308, -1e308),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "\n", "\x00", "\x1b[31m", "a\u202eb"),
    *("\ud800", "../../x", "/", "~", "NaN", "1e-3", "[", '"', "{{ x }}", "x" * 3000, "\U0001f600"),
    *([], [[]], [None], [1, "a"], {}, {"": None}, {"name": {"name": 1}}, [{}], [[[[[]]]]]),
)
SPICE = (
    *(
        b"\x00",
        b"\xff",
        b"\xfe\xff",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n\n",
        b"[",
        b"]",
        b"[[",
        b"{",
        b"}",
    ),
    *(b'"', b"'''", b"=", b".", b",", b"-", b"inf", b"nan", b"1e999", b"9" * 400, b"\\u0000", b"#"),
    *(
        b"[" * 3000,
        b"a = [{b = " * 900,
        b"true",
        b"null",
        b"\t",
        b"\x1b]0;x\x07",
        "\u2028".encode(),
        b"\xed\xa0\x80",
    ),
)


def odd(generator: random.Random) -> Any:
    """An odd value, not shared."""
    return copy.deepcopy(generator.choice(ODD))


def deep(generator: random.Random) -> Any:
    """A value within values within values."""
    value: Any = odd(generator)
    for _ in range(generator.choice((2, 20, 200))):
        value = [value] if generator.random() < 0.5 else {"a": value}
    return value


def changed_bytes(content: bytes, generator: random.Random) -> bytes:
    """Some content with a few places flipped, cut, doubled or spiced."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 5))):
        at = generator.randrange(len(data) + 1)
        to = min(len(data), at + generator.choice((1, 1, 4, 30, 300)))
        kind = generator.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del data[at:to]
        elif kind == 2:
            data[at:at] = data[at:to]
        elif kind == 3:
            data[at:to] = generator.randbytes(to - at)
        elif kind == 4:
            del data[at:]
        else:
            data[at:at] = generator.choice(SPICE)
    return bytes(data)


def changed_value(value: Any, generator: random.Random) -> Any:
    """A tree of JSON values with a few of its places changed, lost or doubled; not shared."""
    holder = {"": copy.deepcopy(value)}
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        parent, key = _place(holder, generator)
        kind = generator.randrange(8)
        if kind == 0 and key != "":
            del parent[key]
        elif kind == 1 and isinstance(parent, dict) and key != "":
            parent[f"{key}x"] = parent.pop(key)
        elif kind == 2:
            parent[key] = [parent[key]]
        elif kind == 3:
            parent[key] = deep(generator)
        elif kind == 4:
            parent[key] = str(parent[key])
        else:
            parent[key] = odd(generator)
    return holder[""]


def _place(holder: dict[str, Any], generator: random.Random) -> tuple[Any, Any]:
    """Somewhere in a tree: what holds the place, and its key there."""
    parent: Any = holder
    key: Any = ""
    while isinstance(parent[key], dict | list) and parent[key] and generator.random() < 0.8:
        parent = parent[key]
        key = generator.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    return parent, key


def as_json(value: Any) -> bytes:
    """A value as a program without scruples writes it: NaN, lone surrogates and all."""
    return json.dumps(value, ensure_ascii=True).encode()
