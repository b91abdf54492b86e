"""The page of `benchmarks.reliability`, from what its parts wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Found = Mapping[str, Any]
MOST_WRONG = 20
"""Of what was not as wished, shown of each part; the rest is in its JSON."""
INTRODUCTION = """# What breaks a sweep

Small sweeps on the embedded world, through the real command line, in forked processes. Each part's
counts are in its JSON; this page is written from those by `python -m benchmarks.reliability`.
"""


def write_page(folder: Path) -> None:
    """Write ``README.md`` from the JSON files of a folder."""
    lines = [INTRODUCTION]
    for name, section in PARTS.items():
        file = folder / f"{name}.json"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            lines += [*section(found), "", f"`{found['command']}`, {_time(found)}.", ""]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _time(found: Found) -> str:
    return f"{found['seconds'] / 60:.0f} minutes on {found['machine']}"


def damage(found: Found) -> Iterator[str]:
    """One bit, a truncation, a page of zeros."""
    tried = found["tried"]
    yield "## Damage: a flipped bit, a file cut short, a page of zeros"
    yield ""
    yield (
        f"{tried:,} damages: {found['noticed']:,} noticed by `status --verify` or `cache check`, "
        f"{found['harmless']} provably harmless (the JSON reads the same), "
        f"{tried - found['noticed'] - found['harmless']} missed. After {found['mended']:,} of them "
        "the next sweep did just what was damaged again and had the same results, bit by bit but "
        "for times."
    )
    yield ""
    yield from _head("kind of file", "tried", "noticed", "harmless", "told by the sweep", "mended")
    for kind, one in found["kinds"].items():
        if one["tried"]:
            cells = [one[name] for name in ("tried", "noticed", "harmless", "told", "mended")]
            yield f"| `{kind}` | {' | '.join(map(str, cells))} |"
    yield ""
    yield (
        "Not among them, because this sweep has none: judges' answers, models converted or merged, "
        "weights that workers share; they are published and read by the same functions."
    )
    yield from _wrong([text for one in found["kinds"].values() for text in one["wrong"]])


def kill(found: Found) -> Iterator[str]:
    """SIGKILL."""
    yield "## SIGKILL"
    yield ""
    yield (
        f"{found['kills']} kills in {found['sweeps']} sweeps, each then run to its end: "
        f"{found['equal']} had every trial once and the same results as one that was never killed, "
        "and left nothing behind."
    )
    for heading, counts in (("how", found["how"]), ("during", found["phases"])):
        yield ""
        yield from _head(heading, "kills")
        yield from (f"| {name} | {count} |" for name, count in counts.items())
    yield from _wrong(found["wrong"])


def disk(found: Found) -> Iterator[str]:
    """Operations of the disk that fail."""
    yield "## A disk that is full or fails"
    yield ""
    yield (
        f"A sweep makes {found['points']:,} such operations in its folder and its cache; "
        f"{found['tried']:,} of them were made to fail, one a run, every third for good. After "
        f"{found['resumed']:,} of these the same command came to the same results."
    )
    yield ""
    yield from _head("operation", "points", "tried", "exit codes", "resumed")
    for name, one in found["operations"].items():
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(one["ended"].items()))
        yield f"| {name} | {one['points']} | {one['tried']} | {codes} | {one['resumed']} |"
    yield from _wrong([text for one in found["operations"].values() for text in one["wrong"]])


def together(found: Found) -> Iterator[str]:
    """Many sweeps at once."""
    yield f"## {found['at once']} sweeps at once"
    yield ""
    yield from _head("", "exit codes", "folders", "right")
    for name, one in found["settings"].items():
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(one["codes"].items()))
        right = "no" if one["wrong"] else "yes"
        yield f"| {name} | {codes} | {one['folders']} | {right} |"
    yield from _wrong([text for one in found["settings"].values() for text in one["wrong"]])


def planted(found: Found) -> Iterator[str]:
    """Code that misbehaves."""
    losses, outside = found["losses"], found["outside"]
    yield "## Losses, rewards and templates that hang, crash or lie"
    yield ""
    yield (
        f"{losses['planted']} losses that misbehave at their third step, among {losses['good']} "
        f"sound ones in one sweep with `--stall-timeout {found['stall']}`: the sound ones were done"
        f", {losses['named']} causes named, in {losses['sweep_seconds']:.0f} s."
    )
    yield ""
    yield from _head("loss", "what its trial's row says")
    for name, error in losses["errors"].items():
        yield f"| {name} | {' '.join(error.replace('|', '/').split())[:160]} |"
    yield ""
    yield from _head("outside a trial", "seconds", "as wished")
    for name, one in outside.items():
        yield f"| {name} | {one['seconds']:.0f} | {'no' if one['wrong'] else 'yes'} |"
    yield from _wrong(losses["wrong"] + [text for one in outside.values() for text in one["wrong"]])


def fuzz(found: Found) -> Iterator[str]:
    """Input of any shape."""
    kinds = found["kinds"]
    yield "## Input of any shape"
    yield ""
    tried = sum(one["tried"] for one in kinds.values())
    wrong = sum(sum(one["wrong"].values()) for one in kinds.values())
    yield (
        f"{tried:,} cases through the program's own entrances: {wrong} tracebacks, hangs of over "
        f"{found['limit']:.0f} s, or messages that cannot be read."
    )
    yield ""
    yield from _head("input", "tried", "refused in a line or two", "otherwise than wished")
    for name, one in kinds.items():
        yield f"| {name} | {one['tried']:,} | {one['refused']:,} | {sum(one['wrong'].values())} |"
    yield from _wrong(
        [
            f"{name}: {what} ({many})"
            for name, one in kinds.items()
            for what, many in one["wrong"].items()
        ]
    )


def many(found: Found) -> Iterator[str]:
    """Hundreds of trials."""
    yield f"## {found['trials']} trials in one sweep"
    yield ""
    yield f"{found['done']} done. Medians of the second and the last quarter of the time:"
    yield ""
    yield from _head("process", "after trials", "MiB resident", "open files")
    for name, one in found["processes"].items():
        for row in one.values():
            size = row["bytes"] / 2**20
            yield f"| {name} | {row['trials']:.0f} | {size:.0f} | {row['files']:.0f} |"
    yield from _wrong(found["wrong"])


def _head(*names: str) -> Iterator[str]:
    """The first lines of a table."""
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"


def _wrong(wrong: list[str]) -> Iterator[str]:
    yield ""
    if not wrong:
        yield "Nothing was otherwise than wished."
        return
    yield f"Not as wished, {len(wrong)}:"
    yield ""
    for text in wrong[:MOST_WRONG]:
        yield f"- {' '.join(text.split())[:400]}"


PARTS: dict[str, Callable[[Found], Iterator[str]]] = {
    "damage": damage,
    "kill": kill,
    "disk": disk,
    "together": together,
    "planted": planted,
    "fuzz": fuzz,
    "many": many,
}
"""What there is, in the order of the page."""
