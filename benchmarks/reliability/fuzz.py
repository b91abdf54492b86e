"""Input of any shape: experiment files and flags, preference data, models, a sweep's own files.

Every case goes through the product's own entrance for that kind of input. What may come out is a
result or a `DpoBenchError` of a line or two; anything else is a traceback to its user. A case that
takes over `SECONDS` hangs.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import random
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.lab import QUICK, Lab
from benchmarks.reliability.mutations import as_json, changed_bytes, changed_value, odd
from dpo_bench.deadline import DeadlineError, deadline
from dpo_bench.errors import DpoBenchError
from dpo_bench.storage import DIGEST
from dpo_bench.terminal import complaint

NEEDS_FAULTS = False
SECONDS = 10.0
MOST_LINES = 6
MOST_CHARACTERS = 2000
Case = Callable[[], object]


@dataclass(slots=True)
class Findings:
    """What came of the cases of one kind.

    Attributes:
        tried: cases.
        refused: of them, that were answered with an error of the product's own.
        wrong: tracebacks, hangs and endless messages, by what and where.
        seconds: of all.
    """

    tried: int = 0
    refused: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def attempt(self, case: Case) -> None:
        """Try a case and keep what came of it."""
        self.tried += 1
        try:
            with deadline(SECONDS), contextlib.redirect_stdout(io.StringIO()):
                case()
        except DpoBenchError as error:
            self.refused += 1
            text = complaint(str(error))
            raw = {mark for mark in text if not mark.isprintable()} - {"\n"}
            if len(text) > MOST_CHARACTERS or text.count("\n") >= MOST_LINES or raw:
                self.wrong[f"message of {len(text)} characters{_where(error)} {raw or ''}"] += 1
        except DeadlineError as error:
            self.wrong[f"hang{_where(error)}"] += 1
        except Exception as error:  # the finding
            self.wrong[f"{type(error).__name__}: {str(error)[:60]!r}{_where(error)}"] += 1


def _where(error: BaseException) -> str:
    """The last line of the product's that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/dpo_bench/" in frame.filename]
    last = (own or list(frames))[-1]
    return f" at {Path(last.filename).name}:{last.lineno}"


def fuzz(cases: Iterator[Case], seconds: float, most: int | None = None) -> Findings:
    """Try cases until the time is over."""
    found = Findings()
    started = time.monotonic()
    for case in cases:
        found.attempt(case)
        found.seconds = time.monotonic() - started
        if found.seconds > seconds or found.tried == most:
            break
    return found


def run(root: Path, seconds: float, count: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Try all kinds, each for its share of the time.

    Args:
        root: an empty folder to work in.
        seconds: of all kinds.
        count: cases of each kind at most; None: as many as there is time for.
        seed: of what is drawn.
    """
    started = time.monotonic()
    lab = Lab(root / "lab", QUICK)
    lab.whole_sweep("whole")
    kinds: dict[str, tuple[float, Callable[[Path, random.Random], Iterator[Case]]]] = {
        "experiment files and flags": (0.35, experiments),
        "preference data": (0.35, pairs),
        "models and tokenizers": (0.15, models),
        "a sweep's own files": (0.15, functools.partial(sweeps, lab.out)),
    }
    found = {}
    for name, (share, kind) in kinds.items():
        folder = root / name.replace(" ", "-")
        folder.mkdir()
        with silent():
            one = fuzz(kind(folder, random.Random(seed)), share * seconds, count)
        found[name] = {"tried": one.tried, "refused": one.refused, "wrong": dict(one.wrong)}
    return {"kinds": found, "limit": SECONDS, "seconds": time.monotonic() - started}


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Libraries' own words about odd input are not what is looked for."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def experiments(folder: Path, generator: random.Random) -> Iterator[Case]:
    """Experiment files, with flags and without: shipped ones, changed."""
    import tomllib

    from dpo_bench.experiment import plan_trials
    from dpo_bench.experiment.overrides import Overrides, resolve
    from dpo_bench.experiment.read import shipped

    sources = {path: path.read_bytes() for path in shipped().values()}
    trees = [tomllib.loads(content.decode()) for content in sources.values()]
    file = folder / "fuzzed.toml"

    def run(flags: Overrides) -> None:
        experiment = resolve(str(file), flags)
        if experiment.search is None:
            plan_trials(experiment)

    while True:
        if generator.random() < 0.4:
            content = changed_bytes(generator.choice(list(sources.values())), generator)
        else:
            content = as_toml(changed_value(generator.choice(trees), generator)).encode(
                errors="surrogatepass"
            )
        file.write_bytes(content)
        flags = Overrides(**_flags(generator)) if generator.random() < 0.5 else Overrides()
        yield lambda flags=flags: run(flags)  # type: ignore[misc]


FLAGS: dict[str, tuple[str, ...]] = {
    "policy": ("world:reviews", "/nowhere", "", "~", "a\x00b", "x" * 5000, "world:", "smollm2"),
    "preferences": ("world:reviews", "/nowhere", "", "/", "\ud800", "-"),
    "reward": ("vader", "", ":", "os:system", "judge:", "model:", "vader:vader", "none"),
}
LISTS: dict[str, tuple[str, ...]] = {
    "losses": ("dpo", "dpo,ipo", ",", "", "dpo+", "nll(dpo)", "(" * 40, "0.5*dpo+sft", "x" * 3000),
    "beta": ("0.1", ".5,1", "nan", "inf", "-1", "1e999", "a", "", "[1]", "9" * 400, "true"),
    "seeds": ("0", "1,2", "-1", "1.5", "a", str(2**70), "[]", "0,0"),
}
SETTINGS = (
    *(
        "training.steps=3",
        "training=3",
        "losses.dpo.beta=[1]",
        "losses=3",
        "losses.dpo=1",
        "a.b.c=1",
    ),
    *("=", "x", "training.steps", ".=1", "training..steps=1", "name=[1]", "data.split=3", "\x00=1"),
    *(
        "evaluation.prompts=1e400",
        "search.kl=[1]",
        "losses..beta=1",
        "training.lora=true",
        "b=[" * 9,
    ),
)


def _flags(generator: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in FLAGS.items():
        if generator.random() < 0.15:
            found[name] = generator.choice(values)
    for name, values in LISTS.items():
        if generator.random() < 0.4:
            found[name] = tuple(generator.choices(values, k=generator.choice((1, 1, 2))))
    if generator.random() < 0.5:
        found["settings"] = tuple(generator.choices(SETTINGS, k=generator.choice((1, 2))))
    if generator.random() < 0.1:
        found["sections"] = {"training": {"steps": odd(generator)}}
    return found


def as_toml(value: Any) -> str:
    """A tree as a TOML document, as far as it has a form there; what has none is left as text."""
    if not isinstance(value, dict):
        return f"value = {_toml(value)}\n"
    lines = [f"{_toml(str(key))} = {_toml(one)}" for key, one in value.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_toml(str(key))} = {_toml(one)}" for key, one in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps("" if value is None else value)


def pairs(folder: Path, generator: random.Random) -> Iterator[Case]:
    """Preference data in every format, read and made into pairs as a sweep does."""
    from dpo_bench.data.prepare import read_preferences
    from dpo_bench.experiment.config import Data

    rows = _rows()
    forms = _forms(rows, folder)

    def run(file: Path, options: dict[str, Any]) -> None:
        read_preferences(str(file), Data(**options))

    place = folder / "data"
    while True:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        name = generator.choice(list(forms))
        file = place / name
        if generator.random() < 0.5 or not name.endswith((".jsonl", ".json")):
            file.write_bytes(changed_bytes(forms[name], generator))
        else:
            value = changed_value(rows[: generator.choice((1, 2, 5))], generator)
            listed = value if isinstance(value, list) else [value]
            lines = b"\n".join(map(as_json, listed))
            file.write_bytes(lines if name.endswith(".jsonl") else as_json(value))
        options = {"invalid": "drop"} if generator.random() < 0.3 else {}
        yield lambda file=file, options=options: run(file, options)  # type: ignore[misc]


def _rows() -> list[dict[str, Any]]:
    plain = [
        {"prompt": f"Which {n}? ", "chosen": f"The {n}th.", "rejected": f"No {n}.", "margin": n / 3}
        for n in range(4)
    ]
    said = [
        {
            "prompt": [{"role": "user", "content": f"Which {n}?"}],
            "chosen": [{"role": "assistant", "content": f"The {n}th."}],
            "rejected": [{"role": "assistant", "content": f"No {n}."}],
        }
        for n in range(3)
    ]
    return [*plain, *said]


def _forms(rows: list[dict[str, Any]], folder: Path) -> dict[str, bytes]:
    import pandas as pd

    plain = pd.DataFrame(rows[:4])
    file = folder / "made.parquet"
    plain.to_parquet(file)
    forms = {"pairs.parquet": file.read_bytes()}
    pd.DataFrame(rows[4:]).to_parquet(file)
    forms["said.parquet"] = file.read_bytes()
    forms["pairs.jsonl"] = b"\n".join(map(as_json, rows[:4]))
    forms["said.jsonl"] = b"\n".join(map(as_json, rows[4:]))
    forms["pairs.json"] = as_json(rows[:4])
    forms["pairs.csv"] = plain.to_csv(index=False).encode()
    forms["pairs.tsv"] = plain.to_csv(index=False, sep="\t").encode()
    return forms


def models(folder: Path, generator: random.Random) -> Iterator[Case]:
    """Folders of models and tokenizers, found, hashed and loaded as a sweep does."""
    from tests.tiny import save_model, save_tokenizer

    good = folder / "good"
    texts = [f"{row['prompt']}{row['chosen']}" for row in _rows()[:4]]
    save_model(good, "llama", save_tokenizer(good, texts))
    yield from _models(good, folder / "model", generator)


def _models(good: Path, place: Path, generator: random.Random) -> Iterator[Case]:
    from dpo_bench.data.chat import ChatTemplate
    from dpo_bench.experiment.config import World
    from dpo_bench.model.load import load_model, load_tokenizer
    from dpo_bench.model.source import resolve_model

    names = [file.relative_to(good) for file in good.iterdir()]

    def run() -> None:
        found = resolve_model(str(place), world=World())
        tokenizer = load_tokenizer(found.path)
        template = ChatTemplate(tokenizer)
        if template.exists:
            template.require_usable()
        load_model(found.path, "cpu")

    while True:
        _copy_changed(good, place, names, generator)
        yield run


def _copy_changed(good: Path, place: Path, names: Sequence[Path], generator: random.Random) -> None:
    """A copy of a folder, one of these files of which is changed or missing."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place)
    file = place / generator.choice(names)
    content = file.read_bytes()
    if file.suffix == ".json" and generator.random() < 0.7:
        value = changed_value(json.loads(content), generator)
        if isinstance(value, dict) and generator.random() < 0.7:
            value.pop(DIGEST, None)  # as older versions wrote it: nothing tells that it changed
        file.write_bytes(as_json(value))
    elif generator.random() < 0.1:
        file.unlink()
    else:
        file.write_bytes(changed_bytes(content, generator))


def sweeps(good: Path, folder: Path, generator: random.Random) -> Iterator[Case]:
    """A finished sweep's files, read by ``status``, ``report`` and the Python interface.

    Args:
        good: a finished sweep, which is copied.
        folder: where the copies go.
        generator: of the changes.
    """
    from rich.console import Console

    from dpo_bench.analysis.results import read_sweep
    from dpo_bench.sweep.results import refresh_results
    from dpo_bench.sweep.status import print_status

    names = [
        file.relative_to(good)
        for file in sorted(good.rglob("*"))
        if file.is_file() and file.suffix in {".json", ".parquet"}
    ]
    place = folder / "sweep"

    def run() -> None:
        with contextlib.suppress(DpoBenchError):
            print_status(place, True, Console(file=io.StringIO()))
        with contextlib.suppress(DpoBenchError):
            refresh_results(place)
        read_sweep(place)

    while True:
        _copy_changed(good, place, names, generator)
        yield run
