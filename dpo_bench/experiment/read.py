"""From an experiment file and the command line's overrides to a validated `Experiment`."""

from __future__ import annotations

import importlib.resources
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dpo_bench.contract import get_loss
from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import Experiment
from dpo_bench.experiment.fields import Key, section_of, walk
from dpo_bench.version import __version__

Tree = dict[str, Any]
LOSSES = "losses"
KEY_VARIABLE = "_key_variable"
"""How names of keys end whose value may by mistake be a secret: it is not shown."""


def shipped() -> dict[str, Path]:
    """Experiment files that travel with the package, by name."""
    folder = Path(str(importlib.resources.files("dpo_bench.runs")))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find_file(given: str) -> Path:
    """A path to an experiment file, or the name of a shipped one.

    Raises:
        ConfigurationError: neither exists.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return path
    files = shipped()
    if given in files:
        return files[given]
    raise ConfigurationError(
        f"there is no experiment file {given}{nearest(given, files)}. "
        f"Shipped ones: {', '.join(files)}."
    )


def read_file(path: Path) -> Tree:
    """The raw content of an experiment file.

    Raises:
        ConfigurationError: the file is no UTF-8 or no TOML; the message gives the line.
    """
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ConfigurationError(f"{path}: tables and lists lie too deep in each other.") from None
    except ValueError as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise ConfigurationError(f"{path}: not a TOML file: {error}.") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}.") from None


def parse_value(text: str) -> Any:
    """A value as TOML would read it; text that is no TOML value is a string.

    >>> parse_value("1e-3"), parse_value("[0, 1]"), parse_value("rmsprop")
    (0.001, [0, 1], 'rmsprop')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def apply_setting(tree: Tree, assignment: str) -> None:
    """Apply one ``section.key=value`` to a raw tree, in place.

    Raises:
        ConfigurationError: there is no ``=``, or the path runs through a value.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f"--set {assignment}: write it as section.key=value.")
    *sections, last = key.strip().split(".")
    if sections and sections[0] == LOSSES:
        tree, sections = _loss_table(tree, sections, assignment), []
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigurationError(f"--set {assignment}: {section} is not a table.")
    tree[last] = parse_value(text.strip())


def _loss_table(tree: Tree, path: Sequence[str], assignment: str) -> Tree:
    """The raw table of the loss that ``losses.NAME.key`` names, made its own where a name stood."""
    entries = [dict(one) for one in loss_tables(tree)]
    tree[LOSSES] = entries
    if len(path) != 2:
        raise ConfigurationError(f"--set {assignment}: write it as losses.NAME.key=value.")
    wanted = get_loss(path[1]).name
    found = [entry for entry in entries if canonical_name(entry.get("name")) == wanted]
    if len(found) != 1:
        count = "several tables" if found else "none"
        raise ConfigurationError(
            f"--set {assignment}: of {wanted} there is {count} among the losses; --losses names"
            " them."
        )
    return found[0]


def loss_tables(tree: Tree) -> list[Mapping[str, Any]]:
    """The raw ``losses``: tables with a name, of which names alone are short for."""
    given = tree.get(LOSSES, [])
    entries = [
        {"name": entry} if isinstance(entry, str) else entry
        for entry in (given if isinstance(given, list) else [given])
    ]
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ConfigurationError(
                'losses must be tables that name a loss: [[losses]] with name = "dpo".'
            )
    return entries


def canonical_name(name: Any) -> str:
    """The name of a loss in the registry; what is no loss stays as it is."""
    try:
        return get_loss(str(name)).name
    except ConfigurationError:
        return str(name)  # said in its place, with what it may be


def validate(tree: Mapping[str, Any], origin: str) -> Experiment:
    """Check a raw tree.

    Args:
        tree: content of a file, overrides applied.
        origin: what the messages call it, usually the file's path.

    Raises:
        ConfigurationError: an unknown key (the nearest name is suggested) or a bad value.
    """
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        # One problem per line, and the first three say enough.
        problems = _problems(error)
        more = f"\n... and {len(problems) - 3} more" if len(problems) > 3 else ""
        lines = "\n".join(f"{origin}: {problem}" for problem in problems[:3])
        raise ConfigurationError(lines + more) from None


def validate_record(settings: Mapping[str, Any], file: Path, made_by: str = "") -> Experiment:
    """Check the experiment that a finished sweep has on record.

    Args:
        settings: every key, as `Experiment.settings` gave them.
        file: where they stand, for the message.
        made_by: version of the program that wrote them; empty: not known.

    Raises:
        ConfigurationError: they are not this version's; one line names the file and the first key.
    """
    try:
        return Experiment.model_validate(settings)
    except ValidationError as error:
        known = made_by not in ("", __version__)
        maker = f"dpo_bench {made_by}" if known else "another version of dpo_bench"
        raise ConfigurationError(
            f"{file}: {_problems(error)[0]} It is of {maker}: read the sweep with that, or run it"
            f" again with this one, {__version__}."
        ) from None


def _problems(error: ValidationError) -> list[str]:
    return list(dict.fromkeys(_describe(item) for item in error.errors()))


def _describe(item: Mapping[str, Any]) -> str:
    path = [str(part) for part in item["loc"]]
    where = ".".join(path) or "the file"
    if item["type"] == "extra_forbidden":
        return f"unknown key {where}{_meant(path)}."
    if item["type"] == "missing":
        return f"{where} is missing."
    message = str(item["msg"]).removeprefix("Value error, ")
    value = item.get("input")
    if where.endswith(KEY_VARIABLE):
        return f"{where} must be the name of an environment variable, not the key itself."
    shown = f" = {value!r}" if isinstance(value, str | int | float | bool) else ""
    return f"{where}{shown}: {message}."


def _meant(path: Sequence[str]) -> str:
    """The key that an unknown one stands for, as the end of a message."""
    last = path[-1]
    keys = [key for key in walk(Experiment) if _has_value(key)]
    same = [key.path for key in keys if last in key.names_elsewhere]
    same = same or [key.path for key in keys if key.path.rpartition(".")[2] == last]
    if same == ["losses"]:
        return " (write it into the loss's own [[losses]] table)"
    if same:
        return f" (did you mean {' or '.join(map(repr, same))}?)"
    return nearest(last, list(_section_at(path[:-1]).model_fields))


def _section_at(path: Sequence[str]) -> type[BaseModel]:
    section: type[BaseModel] = Experiment
    for name in path:
        section = section_of(section.model_fields[name].annotation) or section
    return section


def _has_value(key: Key) -> bool:
    """Whether a key can be given by itself: a section only where it may be absent."""
    return key.section is None or key.field.default is None


def documented_keys() -> Iterator[tuple[str, str, str]]:
    """Every key as (path, default, meaning), in the order of the classes; for documentation."""
    for key in walk(Experiment):
        if _has_value(key):
            default = "required" if key.field.is_required() else repr(key.field.default)
            yield key.path, default, " ".join((key.field.description or "").split())
