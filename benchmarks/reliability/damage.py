"""One bit flipped, a file cut short, a page of zeros, in every kind of file that is read again.

Of each damage it is asked whether it is noticed (`status --verify`, `cache check`), whether the
next sweep says what it does again, does that and nothing else, and ends with the same results.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.compare import differences
from benchmarks.reliability.lab import Lab, Outcome, leftovers

WAYS = ("flip", "cut", "zeros")
PAGE = 4096
AT_ONCE = 6
"""Damages that one sweep mends; each is in another trial or entry, or is another file."""
TURNS = ("sweep", "sweep", "sweep", "cache", "under way")
"""What is damaged, round by round."""
NEEDS_FAULTS = False
WHOLE, UNDER_WAY = "whole", "under-way"


@dataclass
class Kind:
    """What became of the damages of one kind of file.

    Attributes:
        tried: how many.
        noticed: by the command that verifies.
        harmless: not noticed, and what is read is what was written.
        told: named, or its entry is, by the sweep that follows.
        mended: that sweep had the same results, and did nothing else again.
        wrong: what was not as wished.
    """

    tried: int = 0
    noticed: int = 0
    harmless: int = 0
    told: int = 0
    mended: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file.

    Attributes:
        path: of the file, from the lab's root.
        way: see `WAYS`.
        before: its bytes.
        after: likewise.
    """

    path: str
    way: str
    before: bytes
    after: bytes

    @property
    def kind(self) -> str:
        """The path with what names a trial or an entry taken out."""
        path = re.sub(r"[0-9a-f]{16,64}", "*", self.path.removeprefix("runs/small/"))
        path = re.sub(r"figures/\w+", "figures/*", path)
        return re.sub(r"/(step-)?\d{8,9}/", "/*/", path)

    @property
    def is_harmless(self) -> bool:
        """Whether what a reader gets is just the same, whatever the bytes."""
        if not self.path.endswith(".json"):
            return False
        try:
            return bool(json.loads(self.after) == json.loads(self.before))
        except ValueError:
            return False


def run(root: Path, seconds: float, count: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Damage files until so many were tried or the time is up.

    Args:
        root: an empty folder to work in.
        seconds: at most; the round that is under way ends.
        count: of damages.
        seed: of the random places.
    """
    started, draw = time.monotonic(), random.Random(seed)
    lab = Lab(root / "lab")
    prepare(lab)
    kinds: dict[str, Kind] = defaultdict(Kind)
    turn = 0
    while sum(one.tried for one in kinds.values()) < count and time.monotonic() < started + seconds:
        _round(lab, TURNS[turn % len(TURNS)], draw, kinds)
        turn += 1
    return {
        "tried": sum(one.tried for one in kinds.values()),
        "noticed": sum(one.noticed for one in kinds.values()),
        "harmless": sum(one.harmless for one in kinds.values()),
        "mended": sum(one.mended for one in kinds.values()),
        "kinds": {name: vars(one) for name, one in sorted(kinds.items())},
        "rounds": turn,
        "seconds": time.monotonic() - started,
    }


def prepare(lab: Lab) -> None:
    """Make a whole sweep, and one that was killed in its first trial."""
    for _ in range(100):
        running = lab.begin()
        while running.is_alive() and not _is_half_way(lab):
            time.sleep(0.002)
        running.kill()
        running.wait()
        if _is_half_way(lab):
            break
    else:
        raise RuntimeError("no trial was killed between a checkpoint and its end")
    lab.save(UNDER_WAY)
    shutil.rmtree(lab.root)
    lab.whole_sweep(WHOLE)


def _is_half_way(lab: Lab) -> bool:
    """Whether a trial has one checkpoint, behind its evaluation after four steps."""
    steps = [one.name for one in lab.out.glob("checkpoints/*.state/step-*")]
    return len(steps) == 1 and steps[0] > "step-000000004"


def _round(lab: Lab, turn: str, draw: random.Random, kinds: dict[str, Kind]) -> None:
    lab.restore(UNDER_WAY if turn == "under way" else WHOLE)
    if turn == "cache":
        shutil.rmtree(lab.root / "runs")
    where = {"sweep": lab.out, "cache": lab.cache, "under way": lab.out / "checkpoints"}[turn]
    chosen = _choose(lab, where, draw, kinds, 1 if turn == "under way" else AT_ONCE)
    done = [_damage(lab.root, path, draw) for path in chosen]
    verify = ("cache", "check") if turn == "cache" else ("status", str(lab.out), "--verify")
    seen = lab.command(*verify)
    before = _stamps(lab)
    outcome = lab.sweep()
    wrong = _wrong(lab, outcome, before, done, turn)
    after = lab.command(*verify)
    if after.code != 0:
        wrong.append(f"afterwards {' '.join(verify[:1])} says: {after.said[-300:]}")
    for one in done:
        kind = kinds[one.kind]
        kind.tried += 1
        noticed = seen.code == 1 and _is_named(one, seen.said)
        kind.noticed += noticed
        harmless = not noticed and one.is_harmless
        kind.harmless += harmless
        told = _is_told(one, outcome.said)
        kind.told += told
        kind.mended += not wrong
        if not noticed and not harmless:
            kind.wrong.append(f"{one.way} in {one.path} was not noticed")
        if noticed and not told:
            kind.wrong.append(f"{one.way} in {one.path}: the sweep says nothing of it")
    if wrong:
        told_of = ", ".join(f"{one.way} in {one.path}" for one in done)
        kinds[done[0].kind].wrong.append(f"{told_of}: {'; '.join(wrong)}")


def _choose(
    lab: Lab, where: Path, draw: random.Random, kinds: dict[str, Kind], count: int
) -> list[str]:
    """Files of the kinds that had the fewest damages, each in a group of its own."""
    paths = [
        path.relative_to(lab.root).as_posix()
        for path in sorted(where.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != ".lock"
        and path.stat().st_size > 0
    ]  # fmt: skip
    draw.shuffle(paths)
    paths.sort(key=lambda path: kinds[Damage(path, "", b"", b"").kind].tried)
    chosen: dict[str, str] = {}
    for path in paths:
        chosen.setdefault(_group(path), path)
    some = list(chosen.values())[:count]
    if "runs/small/manifest.json" in some:  # what it says of other files is lost with it
        some = [path for path in some if path.count("/") > 3 or path.endswith("manifest.json")]
    return some


def _group(path: str) -> str:
    """What is done again as a whole."""
    name = path.removeprefix("runs/small/")
    if name.startswith(("experiment.", "manifest.json")):
        return "record"
    parts = name.split("/")
    if parts[0] == "figures" or name.startswith(("report", "summary", "matched", "results")):
        return name
    return "/".join(
        parts[:3] if parts[0] == "cache" else parts[:2] if len(parts) > 2 else parts[:1]
    )


def _damage(root: Path, path: str, draw: random.Random) -> Damage:
    """Damage a file where it lies, as a disk does."""
    file = root / path
    before = file.read_bytes()
    while True:
        way = draw.choice(WAYS)
        after = bytearray(before)
        place = draw.randrange(len(before))
        if way == "flip":
            after[place] ^= 1 << draw.randrange(8)
        elif way == "cut":
            del after[place:]
        else:
            page = place - place % PAGE
            after[page : page + PAGE] = bytes(len(after[page : page + PAGE]))
        if bytes(after) != before:
            break
    with file.open("r+b") as stream:  # in place: every hard link to it is damaged
        stream.write(after)
        stream.truncate()
    return Damage(path, way, before, bytes(after))


def _stamps(lab: Lab) -> dict[str, int]:
    """When each trial and each entry of the cache was made."""
    found = [*lab.out.glob("trials/*/samples.parquet"), *lab.cache.glob("*/*/manifest.json")]
    return {path.relative_to(lab.root).as_posix(): path.stat().st_ino for path in found}


def _wrong(
    lab: Lab, outcome: Outcome, before: dict[str, int], done: Sequence[Damage], turn: str
) -> list[str]:
    """What the sweep that followed did wrong."""
    wrong = []
    if outcome.code != 0:
        wrong.append(f"the sweep ended with {outcome.code}: {outcome.said[-300:]}")
    if outcome.has_traceback:
        wrong.append("a traceback")
    wrong += differences(lab.out, lab.saved(WHOLE) / "runs" / "small")
    after = _stamps(lab)
    damaged = {_group(one.path) for one in done}
    if "reference" in damaged:  # its files are links to those of the cache
        damaged |= {_group(path) for path in before if "/reference-evaluations/" in path}
    again = {path for path, inode in before.items() if after.get(path) != inode}
    wrong += [f"{path} was done again" for path in sorted(again) if _group(path) not in damaged]
    if turn != "under way":
        wrong += leftovers(lab.root)
    return wrong


def _is_named(one: Damage, said: str) -> bool:
    """Whether a command that verifies named a file."""
    text = "".join(said.split())
    if not one.path.startswith("cache/"):
        return re.search(rf"DAMAGED:\S*?/{re.escape(one.path)}", text) is not None
    _, kind, entry, name = one.path.split("/", 3)
    return re.search(rf"{kind}/{entry}\([^)]*{re.escape(name)}", text) is not None


def _is_told(one: Damage, said: str) -> bool:
    """Whether a sweep named what it found damaged."""
    text = " ".join(said.split())
    name, group = Path(one.path).name, _group(one.path)
    if one.path.startswith("cache/"):
        entry = "/".join(one.path.split("/")[1:3])
        return f"{entry[:40]}" in text and "made anew" in text
    if "/checkpoints/" in one.path:
        return "is damaged" in text
    if group.startswith("trials/"):
        return f"trial {group.removeprefix('trials/')}: " in text
    if one.path.startswith("runs/small/reference/"):
        return "reference: " in text
    return f"{name} is damaged" in text
